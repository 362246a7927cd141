"""What a server writes to standard error: the end of it is kept, and it is logged line by line, within bounds."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.log import log
from mcp_pool._shared.redaction import Redactor

TAIL_BYTES: Final = 8192
"""How much of standard error is kept."""
ERROR_LINE_LIMIT: Final = 65536
"""Bytes after which a line on standard error is cut: it is text for people, and must not be held without end."""
LOGGED_LINES: Final = 1000
"""Lines that are logged in each `LOGGED_TIME`, lest a server that floods standard error fills the user's disk."""
LOGGED_TIME: Final = 10.0
"""Seconds."""


@final
@attrs.define(eq=False)
class StderrTail:
    """The standard error of one process, line by line."""

    server_id: str
    """For the log."""
    redactor: Redactor
    """Removes secrets."""
    _lines: deque[str] = attrs.field(factory=deque[str], init=False, repr=False)
    """The last lines, `TAIL_BYTES` at most."""
    _size: int = attrs.field(default=0, init=False)
    """The length of these, with ends of lines."""
    _fresh_at: float = attrs.field(default=-math.inf, init=False)
    """When as many lines as ever may be logged again, on the event loop's clock."""
    _seen: int = attrs.field(default=0, init=False)
    """Lines since the last time that was so."""

    def add(self, raw: bytes) -> None:
        """Keep a line, and log it. Secrets go first, because shortening could leave half of one."""
        if len(raw) == ERROR_LINE_LIMIT:
            raw = raw[: ERROR_LINE_LIMIT - self.redactor.reach]  # it was cut, perhaps within a secret
        line = self.redactor.text(raw.decode("utf-8", "replace").rstrip("\r"))[-TAIL_BYTES:]
        self._lines.append(line)
        self._size += len(line) + 1
        while self._size > TAIL_BYTES + 1:
            self._size -= len(self._lines.popleft()) + 1
        self._log(line)

    def text(self) -> str:
        """Return the last lines as one text."""
        return "\n".join(self._lines).strip()

    def tell_omitted(self) -> None:
        """Log how many lines were not logged, if there are any."""
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
