"""The rows of the current servers, and what is remembered of those that have left. `admit` is the only way in.

A row exists exactly as long as its child.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final, final

import attrs

from mcp_pool._shared.exceptions import forget_frames
from mcp_pool.config.settings import NameTool
from mcp_pool.config.target import Target
from mcp_pool.errors import ConnectError, ConnectionLost
from mcp_pool.supervision.counters import Counters
from mcp_pool.supervision.entries import CatalogEntry
from mcp_pool.supervision.events import (
    Broadcast,
    CatalogChanged,
    PoolCleared,
    ServerAdded,
    ServerEvent,
    ServerRemoved,
)
from mcp_pool.supervision.offer import NOTHING
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import Closing, ConnectionStatus

REMEMBERED_LIMIT: Final = 1024
"""How many servers that have left are remembered. Bounded, however many come and go."""


@final
@attrs.frozen(eq=False, repr=False)
class RememberedServer:
    """What is remembered of a server that has left."""

    status: ConnectionStatus
    """`ERROR` if it could not be connected, otherwise `DISCONNECTED`."""
    error: ConnectError | ConnectionLost | None
    """Its last error."""
    place: int
    """Its place in the order of servers."""


@final
@attrs.frozen(eq=False, repr=False)
class Servers:
    """The servers of a registry at one moment.

    Replaced as a whole: a reader in another thread finds a server that leaves either among the current ones or among
    those that have left, never in neither.
    """

    rows: Mapping[str, Row] = attrs.field(factory=dict[str, Row])
    """The current servers by id."""
    remembered: Mapping[str, RememberedServer] = attrs.field(factory=dict[str, RememberedServer])
    """Servers that have left, newest last."""

    @property
    def connected_count(self) -> int:
        """How many of the current ones are `CONNECTED`."""
        return sum(row.state.status is ConnectionStatus.CONNECTED for row in self.rows.values())

    def status(self, server_id: str) -> ConnectionStatus | None:
        """Return the status of a current or remembered server; None for an unknown id."""
        if (row := self.rows.get(server_id)) is not None:
            return row.state.status
        remembered = self.remembered.get(server_id)
        return None if remembered is None else remembered.status

    def statuses(self) -> dict[str, ConnectionStatus]:
        """Return the statuses of the remembered and the current servers."""
        return {
            **{server_id: server.status for server_id, server in self.remembered.items()},
            **{server_id: row.state.status for server_id, row in self.rows.items()},
        }

    def last_error(self, server_id: str) -> ConnectError | ConnectionLost | None:
        """Return the latest failure of a current or remembered server."""
        if (row := self.rows.get(server_id)) is not None:
            return row.last_error
        remembered = self.remembered.get(server_id)
        return None if remembered is None else remembered.error


@final
@attrs.define(eq=False, repr=False)
class Registry:
    """The servers of one child group."""

    _broadcast: Broadcast
    counters: Counters
    """The counters of the pool."""
    _name_tool: NameTool | None = None
    """How the user names tools in the catalog; None for names that cannot collide."""
    versions: Mapping[type[CatalogEntry], int] = attrs.field(factory=dict[type[CatalogEntry], int])
    """A number for each kind of entry in the catalog, which grows when one of them changes."""
    servers: Servers = attrs.field(factory=Servers, init=False)
    """The servers at this moment."""
    _places: int = attrs.field(default=0, init=False)
    """How many places in the order have been given."""

    @property
    def rows(self) -> Mapping[str, Row]:
        """The current servers, by id."""
        return self.servers.rows

    def successor(self) -> Registry:
        """Return an empty registry that takes over."""
        versions = {kind: version + 1 for kind, version in self.versions.items()}
        return Registry(self._broadcast, self.counters, self._name_tool, versions)

    def admit(self, target: Target, *, persistent: bool, predecessor: Row | None, replaces: bool = False) -> Row:
        """Create the row of a server. Its child enters the row as a context manager; the row ends when it is left.

        Args:
            target: The server.
            persistent: Whether it stays after a failed attempt.
            predecessor: An earlier row with this id that has not ended yet.
            replaces: Whether it continues with what the predecessor offered.
        """
        server_id, remembered = target.server_id, self.servers.remembered
        closing, left = self.rows.get(server_id), remembered.get(server_id)
        if closing is not None:
            place = closing.place
        elif left is not None:
            place = left.place
            remembered = {other: server for other, server in remembered.items() if other != server_id}
        else:
            self._places += 1
            place = self._places
        row = Row(
            target,
            persistent,
            predecessor,
            self.note,
            self.counters,
            place,
            self._name_tool,
            self._owner_of,
            self.remove,
        )
        if replaces and predecessor is not None:
            row.offering.inherit(predecessor.offering)
            # Equal entries too are others now: those in a view made before would look to the row that leaves.
            self.versions = {kind: version + 1 for kind, version in self.versions.items()}
            row.subscriptions, predecessor.subscriptions = predecessor.subscriptions, row.subscriptions
        rows = {**self.rows, server_id: row}
        if left is not None:
            rows = dict(sorted(rows.items(), key=lambda item: item[1].place))
        self.servers = Servers(rows, remembered)
        if closing is not None:  # observers see it leave before its successor is added
            row.note_change(closing.offer.change_to(row.offer, server_id))
            self.note(ServerRemoved(server_id, closing.last_error))
        self.note(ServerAdded(server_id))
        return row

    def remove(self, row: Row) -> None:
        """Remove a row whose child has ended, and remember how it ended. Called only by the row."""
        if self.rows.get(row.server_id) is row:  # else a successor was added while it was closing
            rows = {other: one for other, one in self.rows.items() if one is not row}
            failed = not isinstance(row.state, Closing)
            status = ConnectionStatus.ERROR if failed else ConnectionStatus.DISCONNECTED
            if row.last_error is not None:
                forget_frames(row.last_error)
            newest = list(self.servers.remembered.items())[-REMEMBERED_LIMIT + 1 :]
            remembered = {**dict(newest), row.server_id: RememberedServer(status, row.last_error, row.place)}
            self.servers = Servers(rows, remembered)
            row.note_change(row.offer.change_to(NOTHING, row.server_id))
            self.note(ServerRemoved(row.server_id, row.last_error))

    def retire(self) -> None:
        """Stop sending events: another registry has taken over, and its readers need not see these rows end."""
        self._broadcast.send(PoolCleared())
        self._broadcast = Broadcast()

    def note(self, event: ServerEvent) -> None:
        """Send an event about a change. What it changes in the catalog gets a new version."""
        if isinstance(event, CatalogChanged):
            entries = chain(event.added, event.removed, (new for _, new in event.changed))
            self.versions = {**self.versions, **{kind: self.versions.get(kind, 0) + 1 for kind in map(type, entries)}}
        self._broadcast.send(event)

    def _owner_of(self, row: Row, name: str) -> str | None:
        """Return the id of a server other than this one that offers a tool with this catalog name, if there is one."""
        others = (other for other in self.rows.values() if other is not row and other.server_id != row.server_id)
        found = (other for other in others if name in other.offering.offer.tools or name in other.offering.offer.held)
        return next((other.server_id for other in found), None)
