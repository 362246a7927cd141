"""How many servers are dialled at once: a pool of hundreds must not start them all in one moment."""

from __future__ import annotations

from typing import Final, final

import anyio
import attrs

PLACE_TIME: Final = 1.0
"""Seconds for which a dial holds its place: most are done by then, and one that hangs must not hold up the others."""


@final
@attrs.define(eq=False, repr=False)
class Place:
    """The place of one dial."""

    until: float
    """When it is free again, on the event loop's clock, if it is not left before."""


@final
@attrs.define(eq=False, repr=False)
class Gate:
    """Lets dials begin, so many at once, in the order in which they came."""

    places: int
    """How many."""
    _taken: set[Place] = attrs.field(factory=set[Place], init=False, repr=False)
    _left: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    _turn: anyio.Lock = attrs.field(factory=anyio.Lock, init=False, repr=False)
    """Held by the first of those who wait: only one of hundreds wakes when a place is free."""

    async def enter(self) -> Place:
        """Wait for a place and take it."""
        async with self._turn:
            while len(taken := self._still_taken()) >= self.places:
                with anyio.CancelScope(deadline=min(place.until for place in taken)):
                    await self._left.wait()
            place = Place(anyio.current_time() + PLACE_TIME)
            self._taken.add(place)
            return place

    def leave(self, place: Place) -> None:
        """Give a place back; nothing happens when it was given back before."""
        if place in self._taken:
            self._taken.remove(place)
            self._left.set()
            self._left = anyio.Event()

    def _still_taken(self) -> set[Place]:
        now = anyio.current_time()
        self._taken = {place for place in self._taken if place.until > now}
        return self._taken
