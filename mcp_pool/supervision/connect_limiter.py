"""How many servers connect at once: a pool of hundreds must not start them all in one moment."""

from __future__ import annotations

from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.changed import Changed

SLOT_TIME: Final = 1.0
"""Seconds for which an attempt holds its slot: most are done by then, and one that hangs must not hold up others."""


@final
@attrs.define(eq=False, repr=False)
class ConnectSlot:
    """The slot of one attempt."""

    until: float
    """When it is free again, on the event loop's clock, if it is not released before."""


@final
@attrs.define(eq=False, repr=False)
class ConnectLimiter:
    """Lets attempts begin, so many at once, in the order in which they came."""

    slots: int
    """How many."""
    _taken: set[ConnectSlot] = attrs.field(factory=set[ConnectSlot], init=False)
    _released: Changed = attrs.field(factory=Changed, init=False)
    _turn: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)
    """Held by the first of those who wait: only one of hundreds wakes when a slot is free."""

    def acquire_nowait(self) -> ConnectSlot | None:
        """Take a slot if one is free and nobody waits for it."""
        return None if self._turn.locked() else self._take()

    async def acquire(self) -> ConnectSlot:
        """Wait for a slot and take it."""
        async with self._turn:
            while (slot := self._take()) is None:
                with anyio.CancelScope(deadline=min(slot.until for slot in self._taken)):
                    await self._released.wait()
            return slot

    def release(self, slot: ConnectSlot) -> None:
        """Give a slot back; nothing happens when it was given back before."""
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
