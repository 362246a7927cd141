"""How many lines or events could not be read, in total and since a call began."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs


@final
@attrs.define(eq=False)
class Mark:
    """A moment to count from. Calls share one if nothing unreadable arrived between their beginnings."""

    total: int
    """How many had arrived before it."""
    first: str = ""
    """The first that arrived after it, as a quotation; empty if none has."""


@final
@attrs.define(eq=False)
class UnreadableCount:
    """Counts in constant time and memory, regardless of how many arrive and how many calls are in flight."""

    noun: str = "line"
    """What is counted, in the singular."""
    total: int = attrs.field(default=0, init=False)
    """How many have arrived."""
    beginning: Mark = attrs.field(factory=lambda: Mark(0), init=False)
    """The moment before the first."""
    _latest: Mark = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._latest = self.beginning

    def mark(self) -> Mark:
        """Return a mark for the present moment."""
        if self._latest.first:
            self._latest = Mark(self.total)
        return self._latest

    def add(self, quote: Callable[[], str]) -> None:
        """Count one.

        Args:
            quote: Returns its beginning as a quotation; called only if it is the first after a mark.
        """
        self.total += 1
        self._latest.first = self._latest.first or quote()

    def since(self, mark: Mark) -> str:
        """Return what arrived after a mark, as a phrase that follows the server's name; empty if nothing did."""
        count = self.total - mark.total
        if not count:
            return ""
        if count == 1:
            return f"sent 1 {self.noun} that is not JSON-RPC: {mark.first}"
        return f"sent {count} {self.noun}s that are not JSON-RPC, the first of them {mark.first}"
