"""What may happen again and again, and must not fill the log each time."""

from __future__ import annotations

import math
from typing import Final, final

import anyio
import attrs

from mcp_pool.log import log

TOLD_AGAIN: Final = 10.0
"""Seconds between two lines of log about the same trouble."""


@final
@attrs.define(eq=False, repr=False)
class Trouble:
    """Something that may happen again and again, and that the log is told of once in a while."""

    words: str
    """The line of log, with places for the server's id, for how often it happened, and for a detail."""
    _untold: int = attrs.field(default=0, init=False)
    _tell_at: float = attrs.field(default=-math.inf, init=False)

    def note(self, server_id: str, detail: str = "") -> None:
        """Count it, and tell of it unless that was done a moment ago."""
        self._untold += 1
        if anyio.current_time() >= self._tell_at:
            self.tell(server_id, detail)
            self._tell_at = anyio.current_time() + TOLD_AGAIN

    def tell(self, server_id: str, detail: str = "") -> None:
        """Tell of what was counted and not told, if there is anything."""
        if self._untold:
            log("WARNING", server_id, self.words, server_id, self._untold, detail)
            self._untold = 0
