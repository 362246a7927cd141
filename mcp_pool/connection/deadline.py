"""The two bounds of one call: silence, which progress starts anew, and the whole."""

from __future__ import annotations

import math
from typing import final

import anyio
import attrs


@final
@attrs.define(eq=False, repr=False)
class CallDeadline:
    """Keeps the deadline of one call's scope."""

    scope: anyio.CancelScope
    """The call's scope."""
    silence: float | None
    """Seconds without progress after which the call times out; None: no bound."""
    whole: float | None
    """Seconds for the call as a whole; None: no bound."""
    begun: float
    """When the whole began, on the event loop's clock: earlier than now where the call is sent again."""
    explicit: bool
    """Whether the caller gave the bound for the whole with the call; then the wait for the server is part of it."""
    _ends_at: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ends_at = math.inf if self.whole is None else self.begun + self.whole
        self.restart()

    def restart(self) -> None:
        """Count silence from now on."""
        silent_at = math.inf if self.silence is None else anyio.current_time() + self.silence
        self.scope.deadline = min(self._ends_at, silent_at)

    def pause(self) -> None:
        """Let silence not count until `restart`; the bound for the whole still does."""
        self.scope.deadline = self._ends_at

    def reason(self) -> str:
        """Say which bound was met."""
        if self.explicit:
            return f"was not answered within timeout={self.whole} s"
        if anyio.current_time() >= self._ends_at:
            return f"was not answered within max_call_time={self.whole} s"
        return f"received neither an answer nor progress for call_timeout={self.silence} s"
