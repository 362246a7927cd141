"""Limits how many servers connect at once, in all and for each package runner.

A pool of hundreds must not start all of them in the same moment, and package runners that are started together corrupt
the cache that they share. An attempt takes all the slots that it needs in one step and holds none while it waits, so it
does not block servers of another kind. Attempts that need the same slots get them in order of arrival.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import anyio
import attrs

SLOT_TIME: Final = 1.0
"""Seconds that an attempt may hold its slot. Most are done by then, and one that hangs must not delay the others."""
LAUNCH_TIME: Final = 30.0
"""Seconds that an attempt may hold the slot of its package runner: a first start may download a lot."""


@final
@attrs.define(eq=False, repr=False)
class Limit:
    """Limits how many attempts hold a slot, and for how long."""

    setting: str
    """The setting to raise, as a user writes it."""
    slots: int
    """How many attempts may hold one at once."""
    slot_time: float
    """Seconds after which a slot becomes free unless it is released earlier."""
    held: dict[Slot, float] = attrs.field(factory=dict["Slot", float], init=False)
    """The slots that are held, and when each becomes free, on the event loop's clock, the earliest first."""

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return len(self.held) >= self.slots

    @property
    def next_free(self) -> float:
        """When the next slot becomes free unless one is released earlier. Some slot must be held."""
        return next(iter(self.held.values()))

    def expire(self, now: float) -> None:
        """Free the slots that have been held for too long."""
        while self.held and self.next_free <= now:
            del self.held[next(iter(self.held))]


@final
@attrs.define(eq=False, repr=False)
class Slot:
    """One attempt's place in the queue, and then its slot in each of its limits."""

    limits: tuple[Limit, ...]
    """The limits that apply to the attempt."""
    taken: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the attempt may begin."""
    alarm: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    """Wakes the first attempt in the queue when a slot has been held for too long."""

    @property
    def full_limits(self) -> tuple[Limit, ...]:
        """The limits that have no free slot, and keep the attempt waiting."""
        return tuple(limit for limit in self.limits if limit.is_full)


@final
@attrs.define(eq=False, repr=False)
class ConnectLimiter:
    """Starts attempts in order of arrival, passing over those whose package runner has no free slot."""

    max_connecting: int
    """How many may run at once, in all."""
    launch_limits: Mapping[str, int | None]
    """How many of those that a program starts may run at once, by its name; None: no limit."""
    _connecting: Limit = attrs.field(init=False)
    _launching: dict[str, Limit] = attrs.field(init=False)
    _queue: dict[Slot, None] = attrs.field(factory=dict[Slot, None], init=False)
    """The attempts that wait, in order of arrival."""

    def __attrs_post_init__(self) -> None:
        self._connecting = Limit("max_connecting", self.max_connecting, SLOT_TIME)
        self._launching = {
            program: Limit(f"launch_limits[{program!r}]", slots, LAUNCH_TIME)
            for program, slots in self.launch_limits.items()
            if slots is not None
        }

    def enter(self, program: str | None) -> Slot:
        """Take a slot, or a place in the queue if none is free. The caller must release it in any case.

        Args:
            program: The name of the program that the attempt starts; None if it starts none.
        """
        launching = None if program is None else self._launching.get(program)
        slot = Slot((self._connecting,) if launching is None else (self._connecting, launching))
        self._queue[slot] = None
        self._advance()
        return slot

    async def wait(self, slot: Slot) -> None:
        """Wait until the attempt may begin."""
        while not slot.taken.is_set():
            with slot.alarm:
                await slot.taken.wait()
            slot.alarm = anyio.CancelScope()
            self._advance()

    def release(self, slot: Slot) -> None:
        """Release a slot or leave the queue; does nothing if the slot has been released already."""
        self._queue.pop(slot, None)
        for limit in slot.limits:
            limit.held.pop(slot, None)
        self._advance()

    def _advance(self) -> None:
        """Start the attempts that can start, in order, and set one alarm, on the first of those that still wait."""
        now, limits = anyio.current_time(), (self._connecting, *self._launching.values())
        for limit in limits:
            limit.expire(now)
        for slot in tuple(self._queue):
            if self._connecting.is_full:
                break
            if not slot.full_limits:
                del self._queue[slot]
                for limit in slot.limits:
                    limit.held[slot] = now + limit.slot_time
                slot.taken.set()
        if self._queue:
            first = next(iter(self._queue))
            first.alarm.deadline = min(limit.next_free for limit in limits if limit.is_full)
