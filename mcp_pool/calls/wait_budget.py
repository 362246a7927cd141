"""How long one call may wait: for a slot, for its server, and for the next connection after a loss."""

from __future__ import annotations

from typing import final

import anyio
import attrs


@final
@attrs.define(eq=False, repr=False)
class WaitBudget:
    """The time that one call may spend waiting."""

    remaining: float
    """Seconds of waiting that are remaining of `wait_timeout`. The time for which the call runs does not count."""
    total: float
    """Seconds for the whole call, waits included."""
    started_at: float = attrs.field(factory=anyio.current_time, init=False)
    """When the call was made, on the event loop's clock."""
    _rejections: int = attrs.field(default=0, init=False)
    """How often a server refused the call, and with it the session."""
    _waiting_since: float = attrs.field(default=0.0, init=False)
    """When the latest wait began."""

    def begin(self) -> float:
        """Begin to wait, and return until when, on the event loop's clock."""
        self._waiting_since = anyio.current_time()
        return min(self._waiting_since + self.remaining, self.started_at + self.total)

    def end(self) -> None:
        """End a wait."""
        self.remaining -= anyio.current_time() - self._waiting_since

    def note_rejection(self) -> None:
        """Note that a server refused the call, and with it the session."""
        self._rejections += 1

    @property
    def is_spent(self) -> bool:
        """Whether there is nothing to wait for any more.

        What is refused on the next connection too is refused for itself, and would cost everybody one connection after
        the other.
        """
        return self._rejections > 1 or self.remaining <= 0 or anyio.current_time() >= self.started_at + self.total
