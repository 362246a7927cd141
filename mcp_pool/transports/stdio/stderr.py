"""A server's standard error: its tail is kept and its lines are logged, both within bounds."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.log import log
from mcp_pool._shared.redaction import Redactor

TAIL_BYTES: Final = 8192
"""How many bytes of standard error are kept."""
ERROR_LINE_LIMIT: Final = 65536
"""Lines on standard error are cut at this many bytes, so that a line without an end does not fill the memory."""
LOGGED_LINES: Final = 1000
"""The most lines that are logged per `LOGGED_TIME`: a server that floods standard error must not fill the disk."""
LOGGED_TIME: Final = 10.0
"""Seconds."""


@final
@attrs.define(eq=False)
class StderrTail:
    """The tail of one process's standard error."""

    server_id: str
    """The server, for the log."""
    redactor: Redactor
    """Removes secrets."""
    _lines: deque[str] = attrs.field(factory=deque[str], init=False, repr=False)
    """The last lines, at most `TAIL_BYTES` in total."""
    _size: int = attrs.field(default=0, init=False)
    """The total length of these lines, newlines included."""
    _fresh_at: float = attrs.field(default=-math.inf, init=False)
    """When the count of logged lines starts again, on the event loop's clock."""
    _seen: int = attrs.field(default=0, init=False)
    """How many lines were added since the count last started."""

    def add(self, raw: bytes) -> None:
        """Keep a line and log it. Secrets are removed before it is shortened, which could leave half of one."""
        if len(raw) == ERROR_LINE_LIMIT:
            raw = raw[: ERROR_LINE_LIMIT - self.redactor.reach]  # it was cut here, perhaps within a secret
        line = self.redactor.text(raw.decode("utf-8", "replace").rstrip("\r"))[-TAIL_BYTES:]
        self._lines.append(line)
        self._size += len(line) + 1
        while self._size > TAIL_BYTES + 1:
            self._size -= len(self._lines.popleft()) + 1
        self._log(line)

    def text(self) -> str:
        """Return the kept lines as one string."""
        return "\n".join(self._lines).strip()

    def tell_omitted(self) -> None:
        """Log how many lines were left out of the log, if any."""
        if self._seen > LOGGED_LINES:
            omitted = self._seen - LOGGED_LINES
            words = "{} | ({} more lines within {} s)"
            log("DEBUG", self.server_id, words, self.server_id, omitted, LOGGED_TIME)
        self._seen = 0

    def _log(self, line: str) -> None:
        if (now := anyio.current_time()) >= self._fresh_at:
            self.tell_omitted()
            self._fresh_at = now + LOGGED_TIME
        self._seen += 1
        if self._seen <= LOGGED_LINES:
            log("DEBUG", self.server_id, "{} | {}", self.server_id, line)
