"""The deadlines of calls and connection attempts, with a grace period after the program itself stood still.

A cancel scope with a deadline of its own is cancelled by the event loop before anything that has arrived is looked at:
after a suspended laptop wakes up, or a blocked loop goes on, every call would time out although its answer is there.
"""

from __future__ import annotations

import math
from typing import Final, final

import anyio
import attrs

TICK: Final = 1.0
"""Seconds between two looks at the clock, while there are deadlines: how late a look is shows whether the loop ran."""
LATE: Final = 1.0
"""Seconds by which a look must be late for the program to count as having stood still."""
GRACE: Final = 0.25
"""Seconds for what has arrived meanwhile to be handled, once, before passed deadlines count."""


@final
@attrs.define(eq=False, repr=False)
class DeadlineTimer:
    """Cancels scopes whose deadlines have passed. One timer for the whole pool."""

    _deadlines: dict[anyio.CancelScope, float] = attrs.field(factory=dict[anyio.CancelScope, float], init=False)
    """On the event loop's clock."""
    _sleep: anyio.CancelScope | None = attrs.field(default=None, init=False)
    """Its deadline is the next look at the clock; None before the timer runs."""

    def set(self, scope: anyio.CancelScope, deadline: float) -> None:
        """Set the deadline of a scope, or change it.

        Args:
            scope: Is cancelled when its deadline has passed, at once if it has passed already.
            deadline: On the event loop's clock; infinity: none.
        """
        now = anyio.current_time()
        self.forget(scope)
        if deadline <= now:
            scope.cancel()
        elif deadline < math.inf:  # calls without a deadline, which may last for days, must not keep the timer awake
            self._deadlines[scope] = deadline
            if self._sleep is not None:
                self._sleep.deadline = min(self._sleep.deadline, deadline, now + TICK)

    def forget(self, scope: anyio.CancelScope) -> None:
        """Forget the deadline of a scope, if it has one."""
        self._deadlines.pop(scope, None)

    async def run(self) -> None:
        """Watch the clock until cancelled."""
        while True:
            look = min(self._deadlines.values(), default=math.inf)
            if self._deadlines:
                look = min(look, anyio.current_time() + TICK)
            with anyio.CancelScope(deadline=look) as sleep:
                self._sleep = sleep
                await anyio.sleep_forever()
            if anyio.current_time() - sleep.deadline > LATE:
                await anyio.sleep(GRACE)
            now = anyio.current_time()
            for scope in [scope for scope, deadline in self._deadlines.items() if deadline <= now]:
                self.forget(scope)
                scope.cancel()
