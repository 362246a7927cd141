"""What each server has been through since the pool was made: calls and restarts, by its id.

They outlive the rows: a server that is disconnected, replaced or added again goes on counting. Those of the oldest that
have left are kept as one sum, so that memory is bounded and the totals stay exact.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import reduce
from operator import add
from typing import Final, final

import attrs

KEPT_LIMIT: Final = 1024
"""For how many servers that have left the counters are kept apart: as many as are remembered."""


@final
@attrs.frozen
class Counts:
    """What one server has been through, or several together."""

    calls_done: int = 0
    """Calls that brought a result."""
    calls_failed: int = 0
    """Calls that ended with an error, a time-out or a cancellation."""
    tool_errors: int = 0
    """Those of `calls_done` whose result says by `is_error` that the tool failed."""
    restarts: int = 0
    """Connections after the first of a stay in the pool."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.calls_done + other.calls_done,
            self.calls_failed + other.calls_failed,
            self.tool_errors + other.tool_errors,
            self.restarts + other.restarts,
        )


@final
@attrs.frozen
class AllCounts:
    """The counters of all servers at one moment."""

    by_id: Mapping[str, Counts]
    """Of the current servers, and of the newest that have left."""
    forgotten: Counts
    """Of all others together."""

    def beside(self, shown: Container[str]) -> Counts:
        """Return the sum of all but those of some ids."""
        others = (counts for server_id, counts in self.by_id.items() if server_id not in shown)
        return reduce(add, others, self.forgotten)


@final
@attrs.define(eq=False, repr=False)
class _Counter:
    """The counters of one id."""

    owner: object
    """The newest row of this id; None when that has ended. Those of one id end in order."""
    counts: Counts = Counts()
    """Replaced whole."""


@final
@attrs.frozen(eq=False, repr=False)
class _Kept:
    """All that is kept. Replaced whole: in another thread as well, what leaves `by_id` is found in `forgotten`."""

    by_id: Mapping[str, _Counter]
    """The counters of the current servers and of those that have left, the newest last."""
    forgotten: Counts


@final
@attrs.define(eq=False, repr=False)
class Counters:
    """The counters of one pool."""

    _kept: _Kept = attrs.field(factory=lambda: _Kept({}, Counts()), init=False)

    def admit(self, server_id: str, owner: object) -> Counts:
        """Count for a new row, on top of what was counted for its id before, and return that."""
        kept = self._kept
        if (counter := kept.by_id.get(server_id)) is None:
            counter = _Counter(owner)
            self._kept = _Kept({**kept.by_id, server_id: counter}, kept.forgotten)
        counter.owner = owner
        return counter.counts

    def release(self, server_id: str, owner: object) -> None:
        """Note that a row has ended, and forget the oldest of those that have left where there are too many."""
        by_id = dict(self._kept.by_id)
        counter = by_id.pop(server_id)
        if counter.owner is not owner:
            return  # there is a successor, which counts on
        counter.owner = None
        by_id[server_id] = counter  # now the newest
        left = [server_id for server_id, other in by_id.items() if other.owner is None]
        old = [by_id.pop(server_id).counts for server_id in left[:-KEPT_LIMIT]]
        self._kept = _Kept(by_id, reduce(add, old, self._kept.forgotten))

    def add(self, server_id: str, counts: Counts) -> None:
        """Add to the counters of an id; a call may end when its server has been forgotten."""
        kept = self._kept
        if (counter := kept.by_id.get(server_id)) is None:
            self._kept = _Kept(kept.by_id, kept.forgotten + counts)
        else:
            counter.counts += counts

    def read(self) -> AllCounts:
        """Return all counters at this moment; from any thread."""
        kept = self._kept
        return AllCounts({server_id: counter.counts for server_id, counter in kept.by_id.items()}, kept.forgotten)
