"""Log lines about frequent events, limited in number so that they do not fill the log."""

from __future__ import annotations

import math
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.log import log

INTERVAL: Final = 10.0
"""Minimum number of seconds between two lines about the same kind of event."""


@final
@attrs.define(eq=False, repr=False)
class LogThrottle:
    """Counts events of one kind, and logs their number from time to time."""

    message: str
    """The message, with placeholders for the server's id, the number of events and, optionally, a detail."""
    _unlogged: int = attrs.field(default=0, init=False)
    _next_at: float = attrs.field(default=-math.inf, init=False)

    def count(self, server_id: str, detail: str = "") -> None:
        """Count an event, and log the number unless a line was logged within the last `INTERVAL` seconds."""
        self._unlogged += 1
        if anyio.current_time() >= self._next_at:
            self.flush(server_id, detail)
            self._next_at = anyio.current_time() + INTERVAL

    def flush(self, server_id: str, detail: str = "") -> None:
        """Log the number of events that have not been logged yet, if any."""
        if self._unlogged:
            log("WARNING", server_id, self.message, server_id, self._unlogged, detail)
            self._unlogged = 0
