"""The one condition that waiters wait on: something changed, look again."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import anyio
import attrs


@final
@attrs.define(eq=False, repr=False)
class Changed:
    """Wakes all who wait whenever something has changed.

    Waiters wait for a level and not for an edge: each looks at its own condition again after every change, so a change
    that comes between two looks is never missed.
    """

    _event: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def notify(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next change."""
        await self._event.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; return at once, without a checkpoint, when it holds already.

        Args:
            condition: Looked at now, and after each change.
        """
        while not condition():
            await self._event.wait()
