"""The rows of the current servers, and the last of those that have left. `admit` is the only way in.

A row exists exactly as long as its child. Its state changes synchronously, by legal moves only; who waits for something
waits for a condition to hold, never for a moment to pass.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.exceptions import forget_frames
from mcp_pool.config.target import Target
from mcp_pool.connection.connection import Connection
from mcp_pool.connection.listing import Inventory
from mcp_pool.errors import ConnectError, ConnectionLost
from mcp_pool.supervision.call_counts import CallCounts
from mcp_pool.supervision.events import (
    Broadcast,
    CatalogChanged,
    PoolCleared,
    ServerAdded,
    ServerRemoved,
    StatusChanged,
)
from mcp_pool.supervision.state import (
    LEGAL_MOVES,
    BackingOff,
    Closing,
    Connecting,
    ConnectionStatus,
    Failed,
    Ready,
    State,
)

REMEMBERED_LIMIT: Final = 1024
"""How many servers that have left are remembered: enough to look one up, bounded however many come and go."""


@final
@attrs.define(eq=False, repr=False)
class Row:
    """One current server: what others may see of it and ask of its child."""

    target: Target
    """The server."""
    persistent: bool
    """Whether it stays when an attempt fails: True for `add`, and for `connect` once it has been connected."""
    predecessor: Row | None
    """An earlier row of the same id that had not ended yet."""
    _registry: Registry
    state: State = attrs.field(init=False)
    """Its state."""
    connection: Connection | None = attrs.field(default=None, init=False)
    """The connection that takes calls, or that is being drained while the server is closing. The child owns it."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes all who wait for something about this row."""
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    """Holds the child; cancelling it ends the child."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the child has ended and the row is gone."""
    last_error: ConnectError | ConnectionLost | None = attrs.field(default=None, init=False)
    """The latest failure, also when the server has come back since."""
    inventory: Inventory | None = attrs.field(default=None, init=False)
    """What it offered when it was last listed; None before the first time."""
    calls: CallCounts = attrs.field(factory=CallCounts, init=False)
    """How its calls ended so far."""
    slots: anyio.Semaphore | None = attrs.field(init=False)
    """One for each call that may run at once; None: no bound."""
    queue: set[anyio.CancelScope] = attrs.field(factory=set[anyio.CancelScope], init=False)
    """Calls that wait for a slot; they stop waiting once the server has failed or is leaving."""
    calls_in_flight: int = attrs.field(default=0, init=False)
    """Calls that a connection has taken and that have not ended, those of an earlier connection included."""
    _listings: int = attrs.field(default=0, init=False)
    """How many listings have begun."""
    _listed: int = attrs.field(default=0, init=False)
    """The number of the listing that `inventory` is from."""
    _joined: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.state = Connecting(attempt=1, generation=0, since=anyio.current_time())
        most = self.target.spec.max_in_flight
        self.slots = None if most is None else anyio.Semaphore(most)

    def __enter__(self) -> Row:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._registry.remove(self)
        self.ended.set()
        self.changed.notify()

    @property
    def server_id(self) -> str:
        """The server's id in the pool."""
        return self.target.server_id

    @property
    def is_final(self) -> bool:
        """Whether the server will not connect unless somebody asks for it."""
        return self.ended.is_set() or isinstance(self.state, Failed | Closing)

    def move(self, state: State, connection: Connection | None = None) -> None:
        """Change the state, synchronously, and wake all who wait or listen.

        Args:
            state: The new state.
            connection: The connection to show with it; one that is being closed stays in view.
        """
        if type(state) not in LEGAL_MOVES[type(self.state)]:
            raise RuntimeError(f"Server {self.server_id!r} may not go from {self.state} to {state}")
        self.state = state
        if not isinstance(state, Closing):
            self.connection = connection
        error = state.error if isinstance(state, BackingOff | Failed) else None
        self.last_error = error or self.last_error
        while self.queue and self.is_final:
            self.queue.pop().cancel()
        self._registry.note(StatusChanged(self.server_id, state.status, state.generation, error, state))
        self.changed.notify()

    def become_ready(self, connection: Connection, inventory: Inventory) -> None:
        """Note that the server is connected."""
        self.persistent = True
        self.update_inventory(inventory, self.begin_listing())
        now = anyio.current_time()
        self.move(Ready(attempt=self.state.attempt, generation=connection.generation, since=now), connection)

    def begin_listing(self) -> int:
        """Return the number of a listing that is about to begin."""
        self._listings += 1
        return self._listings

    def update_inventory(self, inventory: Inventory, number: int) -> None:
        """Note what the server offers, unless a listing that began later has been noted already.

        Args:
            inventory: What it offers.
            number: The number of its listing, from `begin_listing`.
        """
        if number < self._listed:
            return
        self._listed = number
        if inventory != self.inventory:
            self.inventory = inventory
            self._registry.note(CatalogChanged(self.server_id))

    def request_attempt(self) -> int:
        """Ask for a new connection, unless an attempt is running, and return the number of the attempt."""
        state = self.state
        if isinstance(state, Connecting | Closing):
            return state.attempt
        self.move(Connecting(attempt=state.attempt + 1, generation=state.generation, since=anyio.current_time()))
        return state.attempt + 1

    def refuse(self) -> None:
        """Take no more calls: the server is leaving."""
        state = self.state
        if not isinstance(state, Closing):
            self.move(Closing(attempt=state.attempt, generation=state.generation, since=anyio.current_time()))

    def predecessors(self) -> Iterator[Row]:
        """Return the earlier rows of the same id that have not ended, the newest first."""
        older = self.predecessor
        while older is not None:
            if not older.ended.is_set():
                yield older
            older = older.predecessor

    @contextmanager
    def joined(self) -> Generator[None]:
        """Wait for an attempt together with others; the last to leave one that is not persistent ends it."""
        self._joined += 1
        try:
            yield
        finally:
            self._joined -= 1
            if not self._joined and not self.persistent and not self.ended.is_set():
                self.refuse()  # at once, so that a `connect` right after this one begins anew
                self.scope.cancel()

    @contextmanager
    def in_flight(self) -> Generator[None]:
        """Count a call while a connection has it."""
        self.calls_in_flight += 1
        try:
            yield
        finally:
            self.calls_in_flight -= 1
            if not self.calls_in_flight:
                self.changed.notify()

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self.changed.until(lambda: not self.calls_in_flight)


@final
@attrs.frozen(eq=False, repr=False)
class RememberedServer:
    """What is remembered of a server that has left."""

    status: ConnectionStatus
    """`ERROR` when it could not be connected, otherwise `DISCONNECTED`."""
    error: ConnectError | ConnectionLost | None
    """Its last error."""


@final
@attrs.define(eq=False, repr=False)
class Registry:
    """The servers of one child group."""

    _broadcast: Broadcast
    rows: Mapping[str, Row] = attrs.field(factory=dict[str, Row], init=False)
    """The current servers, by id. Replaced whole by each change, so that any thread can read it."""
    remembered: Mapping[str, RememberedServer] = attrs.field(factory=dict[str, RememberedServer], init=False)
    """Servers that have left, the newest last. Likewise."""
    version: int = attrs.field(default=0, init=False)
    """Grows with every change, so that what is computed from the rows can be kept until then."""

    @property
    def connected_count(self) -> int:
        """How many servers are `CONNECTED`."""
        return sum(row.state.status is ConnectionStatus.CONNECTED for row in self.rows.values())

    def status(self, server_id: str) -> ConnectionStatus | None:
        """Return the status of a current or remembered server; None for an id never seen."""
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

    def admit(self, target: Target, *, persistent: bool, predecessor: Row | None) -> Row:
        """Make the row of a server. Its child enters it as a context manager; leaving it is the row's end."""
        server_id = target.server_id
        if server_id in self.rows:  # it is closing; for observers it leaves before its successor comes
            self.note(ServerRemoved(server_id, self.rows[server_id].last_error))
        row = Row(target, persistent, predecessor, self)
        self.rows = {**self.rows, server_id: row}  # a successor takes the place of its predecessor
        if server_id in self.remembered:
            self.remembered = {other: server for other, server in self.remembered.items() if other != server_id}
        self.note(ServerAdded(server_id))
        return row

    def remove(self, row: Row) -> None:
        """Forget a row whose child has ended, and remember how it left. Called by the row only."""
        if self.rows.get(row.server_id) is row:  # not a successor that was admitted while it was closing
            self.rows = {other: one for other, one in self.rows.items() if one is not row}
            failed = not isinstance(row.state, Closing)
            status = ConnectionStatus.ERROR if failed else ConnectionStatus.DISCONNECTED
            if row.last_error is not None:
                forget_frames(row.last_error)
            newest = list(self.remembered.items())[-REMEMBERED_LIMIT + 1 :]
            self.remembered = {**dict(newest), row.server_id: RememberedServer(status, row.last_error)}
            self.note(ServerRemoved(row.server_id, row.last_error))

    def retire(self) -> None:
        """Become invisible: another registry has taken over, and the rows that still end here are no news."""
        self._broadcast.send(PoolCleared())
        self._broadcast = Broadcast()

    def note(self, event: ServerAdded | StatusChanged | CatalogChanged | ServerRemoved) -> None:
        """Count a change and tell all who listen."""
        self.version += 1
        self._broadcast.send(event)
