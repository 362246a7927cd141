"""The calls and restarts of each server since the pool was created, by server id.

Counts outlive the rows: if a server is disconnected, replaced or added again, its counts continue. For servers that
left long ago only the sum is stored, so that memory is bounded and the totals stay exact.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import reduce
from operator import add
from typing import Final, final

import attrs

KEPT_LIMIT: Final = 1024
"""For how many servers that have left separate counts are stored: as many as are remembered."""


@final
@attrs.frozen
class Counts:
    """The counts of one server, or of several together."""

    calls_done: int = 0
    """Calls that returned a result."""
    calls_failed: int = 0
    """Calls that ended with an error, a timeout or a cancellation."""
    tool_errors: int = 0
    """Calls in `calls_done` whose result has `is_error` set: the tool itself failed."""
    restarts: int = 0
    """Connections after the first, each time the server was added to the pool."""

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
    """The counts of all servers at one moment."""

    by_id: Mapping[str, Counts]
    """Counts of the current servers, and of the latest ones that have left."""
    others: Counts
    """The sum for all other servers."""

    def excluding(self, ids: Container[str]) -> Counts:
        """Return the sum for all servers except those with these ids."""
        others = (counts for server_id, counts in self.by_id.items() if server_id not in ids)
        return reduce(add, others, self.others)


@final
@attrs.define(eq=False, repr=False)
class _Counter:
    """The counters of one id."""

    owner: object
    """The newest row with this id; None when it has ended. Rows with the same id end in order."""
    counts: Counts = Counts()
    """Every change replaces it."""


@final
@attrs.frozen(eq=False, repr=False)
class _Table:
    """All that is stored. Replaced as a whole, so that a reader in another thread finds each count exactly once."""

    by_id: Mapping[str, _Counter]
    """The counters of the current servers, and of those that have left, newest last."""
    others: Counts
    """The sum for all servers that left before those."""


@final
@attrs.define(eq=False, repr=False)
class Counters:
    """The counters of one pool."""

    _table: _Table = attrs.field(factory=lambda: _Table({}, Counts()), init=False)

    def admit(self, server_id: str, owner: object) -> Counts:
        """Start counting for a new row, and return what was counted for its id before."""
        table = self._table
        if (counter := table.by_id.get(server_id)) is None:
            counter = _Counter(owner)
            self._table = _Table({**table.by_id, server_id: counter}, table.others)
        counter.owner = owner
        return counter.counts

    def release(self, server_id: str, owner: object) -> None:
        """Record that a row has ended. If too many servers have left, add the counts of the oldest ones to the sum."""
        by_id = dict(self._table.by_id)
        counter = by_id.pop(server_id)
        if counter.owner is not owner:
            return  # its successor continues the counts
        counter.owner = None
        by_id[server_id] = counter  # now the newest
        left = [server_id for server_id, other in by_id.items() if other.owner is None]
        old = [by_id.pop(server_id).counts for server_id in left[:-KEPT_LIMIT]]
        self._table = _Table(by_id, reduce(add, old, self._table.others))

    def add(self, server_id: str, counts: Counts) -> None:
        """Add to the counts of an id. A call may end after its server is no longer listed separately."""
        table = self._table
        if (counter := table.by_id.get(server_id)) is None:
            self._table = _Table(table.by_id, table.others + counts)
        else:
            counter.counts += counts

    def read(self) -> AllCounts:
        """Return all counts. May be called from any thread."""
        table = self._table
        return AllCounts({server_id: counter.counts for server_id, counter in table.by_id.items()}, table.others)
