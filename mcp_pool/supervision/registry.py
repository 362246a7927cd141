"""The rows of the current servers, and what is remembered of those that have left. `admit` is the only way in.

A row exists exactly as long as its child.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import attrs

from mcp_pool._shared.exceptions import forget_frames
from mcp_pool.config.target import Target
from mcp_pool.errors import ConnectError, ConnectionLost
from mcp_pool.supervision.counters import Counters
from mcp_pool.supervision.events import Broadcast, PoolCleared, ServerAdded, ServerEvent, ServerRemoved
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
    servers: Servers = attrs.field(factory=Servers, init=False)
    """The servers at this moment."""
    version: int = attrs.field(default=0, init=False)
    """Grows with every change, so that what is computed from the rows can be kept until then."""

    @property
    def rows(self) -> Mapping[str, Row]:
        """The current servers, by id."""
        return self.servers.rows

    def admit(self, target: Target, *, persistent: bool, predecessor: Row | None) -> Row:
        """Create the row of a server. Its child enters the row as a context manager; the row ends when it is left."""
        server_id = target.server_id
        if server_id in self.rows:  # it is closing: observers see it leave before its successor is added
            self.note(ServerRemoved(server_id, self.rows[server_id].last_error))
        row = Row(target, persistent, predecessor, self.note, self.counters, self.remove)
        rows = {**self.rows, server_id: row}  # a successor keeps its predecessor's place in the order
        remembered = self.servers.remembered
        if server_id in remembered:
            remembered = {other: server for other, server in remembered.items() if other != server_id}
        self.servers = Servers(rows, remembered)
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
            remembered = {**dict(newest), row.server_id: RememberedServer(status, row.last_error)}
            self.servers = Servers(rows, remembered)
            self.note(ServerRemoved(row.server_id, row.last_error))

    def retire(self) -> None:
        """Stop sending events: another registry has taken over, and its readers need not see these rows end."""
        self._broadcast.send(PoolCleared())
        self._broadcast = Broadcast()

    def note(self, event: ServerEvent) -> None:
        """Count a change and send an event about it."""
        self.version += 1
        self._broadcast.send(event)
