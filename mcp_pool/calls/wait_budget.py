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
    """Seconds that remain of `wait_timeout`. The time during which the call runs does not count."""
    total: float
    """Seconds for the whole call, waits included."""
    started_at: float = attrs.field(factory=anyio.current_time, init=False)
    """When the call was made, on the event loop's clock."""
    _rejections: int = attrs.field(default=0, init=False)
    """How many times the server rejected the session that the call was sent in."""
    _waiting_since: float = attrs.field(default=0.0, init=False)
    """When the latest wait started."""

    def begin(self) -> float:
        """Start a wait, and return its deadline on the event loop's clock."""
        self._waiting_since = anyio.current_time()
        return min(self._waiting_since + self.remaining, self.started_at + self.total)

    def end(self) -> None:
        """End a wait."""
        self.remaining -= anyio.current_time() - self._waiting_since

    def note_rejection(self) -> None:
        """Record that the server rejected the session that the call was sent in."""
        self._rejections += 1

    @property
    def is_spent(self) -> bool:
        """Whether the call must not wait any more.

        If the next session is rejected as well, the call itself is the reason, and retrying it would cost the other
        calls one connection after another.
        """
        return self._rejections > 1 or self.remaining <= 0 or anyio.current_time() >= self.started_at + self.total
