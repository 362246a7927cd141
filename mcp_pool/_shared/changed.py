"""The condition that waiters wait on: something has changed, check again."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import anyio
import attrs


@final
@attrs.define(eq=False, repr=False)
class Changed:
    """Wakes all waiters whenever something has changed.

    Waiters wait for a level, not for an edge: each checks its own condition again after every change, so a change
    between two checks is never missed.
    """

    _event: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def notify(self) -> None:
        """Wake all current waiters."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds. If it holds already, return at once, without a checkpoint.

        Args:
            condition: Checked now and after each change.
        """
        while not condition():
            await self._event.wait()
