"""Lines of log about what may happen again and again, and must not fill the log."""

from __future__ import annotations

import math
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.log import log

INTERVAL: Final = 10.0
"""Seconds between two lines about the same thing."""


@final
@attrs.define(eq=False, repr=False)
class LogThrottle:
    """Counts something that may happen again and again, and logs it once in a while."""

    message: str
    """The line of log, with places for the server's id, for how often it happened, and for a detail."""
    _unlogged: int = attrs.field(default=0, init=False)
    _next_at: float = attrs.field(default=-math.inf, init=False)

    def count(self, server_id: str, detail: str = "") -> None:
        """Count it, and log it unless that was done within the last ten seconds."""
        self._unlogged += 1
        if anyio.current_time() >= self._next_at:
            self.flush(server_id, detail)
            self._next_at = anyio.current_time() + INTERVAL

    def flush(self, server_id: str, detail: str = "") -> None:
        """Log what was counted and not logged, if there is anything."""
        if self._unlogged:
            log("WARNING", server_id, self.message, server_id, self._unlogged, detail)
            self._unlogged = 0
