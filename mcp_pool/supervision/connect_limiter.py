"""How many servers connect at once: in all, and of those that one package runner starts.

A pool of hundreds must not start them all in one moment, and package runners that are started together corrupt the
cache that they share. An attempt takes all the slots that it needs in one step, and holds none while it waits: so it
keeps no other kind of server out, and once its runner may start one more, nobody who came later goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import anyio
import attrs

SLOT_TIME: Final = 1.0
"""Seconds for which an attempt holds its slot: most are done by then, and one that hangs must not hold up others."""
LAUNCH_TIME: Final = 30.0
"""Seconds for which it holds that of its package runner: a first start may download a lot."""


@final
@attrs.define(eq=False, repr=False)
class Limit:
    """So many attempts at once, each for so long at most."""

    setting: str
    """What raises it, as a user writes it."""
    slots: int
    """How many."""
    slot_time: float
    """Seconds after which a slot is free again if it is not released before."""
    held: dict[Slot, float] = attrs.field(factory=dict["Slot", float], init=False)
    """Who has a slot, and when it is free again on the event loop's clock: the first to be free comes first."""

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return len(self.held) >= self.slots

    @property
    def next_free(self) -> float:
        """When the first slot of a full limit is free again, if none is released before."""
        return next(iter(self.held.values()))

    def expire(self, now: float) -> None:
        """Free the slots whose time is up."""
        while self.held and self.next_free <= now:
            del self.held[next(iter(self.held))]


@final
@attrs.define(eq=False, repr=False)
class Slot:
    """The place of one attempt: in the queue, then among those that connect."""

    limits: tuple[Limit, ...]
    """The limits that it counts for."""
    taken: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the attempt may begin."""
    alarm: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    """Wakes the first in the queue when a slot is free because its time is up."""

    @property
    def full_limits(self) -> tuple[Limit, ...]:
        """The limits without a free slot: what keeps it in the queue."""
        return tuple(limit for limit in self.limits if limit.is_full)


@final
@attrs.define(eq=False, repr=False)
class ConnectLimiter:
    """Lets attempts begin in the order in which they came; those whose package runner has no slot are passed over."""

    max_connecting: int
    """How many at once, in all."""
    launch_limits: Mapping[str, int | None]
    """How many at once of those that a program starts, by its name; None: no limit of their own."""
    _connecting: Limit = attrs.field(init=False)
    _launching: dict[str, Limit] = attrs.field(init=False)
    _queue: dict[Slot, None] = attrs.field(factory=dict[Slot, None], init=False)
    """Who waits, in the order in which they came."""

    def __attrs_post_init__(self) -> None:
        self._connecting = Limit("max_connecting", self.max_connecting, SLOT_TIME)
        self._launching = {
            program: Limit(f"launch_limits[{program!r}]", slots, LAUNCH_TIME)
            for program, slots in self.launch_limits.items()
            if slots is not None
        }

    def enter(self, program: str | None) -> Slot:
        """Take a slot, or a place in the queue when none is free. It must be released whatever happens.

        Args:
            program: The name of the program that the attempt starts; None when it starts none.
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
        """Give a slot back, or leave the queue; nothing happens when it was given back before."""
        self._queue.pop(slot, None)
        for limit in slot.limits:
            limit.held.pop(slot, None)
        self._advance()

    def _advance(self) -> None:
        """Let all begin that can, in order, and set an alarm for the next time: one, for hundreds may wait."""
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
