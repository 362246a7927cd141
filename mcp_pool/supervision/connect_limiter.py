"""Limits how many servers connect at once: a pool of hundreds must not start all of them in the same moment."""

from __future__ import annotations

from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.changed import Changed

SLOT_TIME: Final = 1.0
"""Seconds that an attempt may hold its slot. Most are done by then, and one that hangs must not delay the others."""


@final
@attrs.define(eq=False, repr=False)
class ConnectSlot:
    """The slot that one attempt holds."""

    until: float
    """When it becomes free, on the event loop's clock, unless it is released earlier."""


@final
@attrs.define(eq=False, repr=False)
class ConnectLimiter:
    """Lets a limited number of attempts run at once, in order of arrival."""

    slots: int
    """How many may run at once."""
    _taken: set[ConnectSlot] = attrs.field(factory=set[ConnectSlot], init=False)
    _released: Changed = attrs.field(factory=Changed, init=False)
    _turn: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)
    """Held by the first task that waits, so that a free slot wakes one task and not hundreds."""

    def acquire_nowait(self) -> ConnectSlot | None:
        """Take a slot if one is free and no other attempt is waiting."""
        return None if self._turn.locked() else self._take()

    async def acquire(self) -> ConnectSlot:
        """Wait for a slot and take it."""
        async with self._turn:
            while (slot := self._take()) is None:
                with anyio.CancelScope(deadline=min(slot.until for slot in self._taken)):
                    await self._released.wait()
            return slot

    def release(self, slot: ConnectSlot) -> None:
        """Release a slot; does nothing if it has been released already."""
        if slot in self._taken:
            self._taken.remove(slot)
            self._released.notify()

    def _take(self) -> ConnectSlot | None:
        now = anyio.current_time()
        self._taken = {slot for slot in self._taken if slot.until > now}
        if len(self._taken) >= self.slots:
            return None
        slot = ConnectSlot(now + SLOT_TIME)
        self._taken.add(slot)
        return slot
