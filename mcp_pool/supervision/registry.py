"""The rows of the current servers, and what is remembered of those that have left. `admit` is the only way in.

A row exists exactly as long as its child. Its state changes synchronously, and only by legal transitions. Tasks wait
for a condition to hold, never for a notification at the right moment.
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
"""How many servers that have left are remembered. Bounded, however many come and go."""


@final
@attrs.define(eq=False, repr=False)
class Row:
    """One current server: what others can see of it and request from its child."""

    target: Target
    """The server."""
    persistent: bool
    """Whether it stays after a failed attempt: True for `add`, and for `connect` once it has been connected."""
    predecessor: Row | None
    """An earlier row with the same id that had not ended yet."""
    _registry: Registry
    state: State = attrs.field(init=False)
    """Its state."""
    connection: Connection | None = attrs.field(default=None, init=False)
    """The connection that takes calls, or that drains while the server is closing. The child owns it."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes all tasks that wait for a change of this row."""
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    """The scope of the child; cancelling it ends the child."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the child has ended and the row is gone."""
    last_error: ConnectError | ConnectionLost | None = attrs.field(default=None, init=False)
    """The latest failure, even if the server has reconnected since."""
    inventory: Inventory | None = attrs.field(default=None, init=False)
    """What it offers according to its latest listing; None before the first."""
    calls: CallCounts = attrs.field(factory=CallCounts, init=False)
    """How its calls ended so far."""
    slots: anyio.Semaphore | None = attrs.field(init=False)
    """One slot for each call that may run at once; None for no limit."""
    queue: set[anyio.CancelScope] = attrs.field(factory=set[anyio.CancelScope], init=False)
    """Calls that wait for a slot; they stop waiting when the server fails or closes."""
    calls_in_flight: int = attrs.field(default=0, init=False)
    """Calls that are running, including those on an earlier connection that drains."""
    _listings: int = attrs.field(default=0, init=False)
    """How many listings have been started."""
    _listed: int = attrs.field(default=0, init=False)
    """The number of the listing that `inventory` comes from."""
    _joined: int = attrs.field(default=0, init=False)
    """How many callers wait for an attempt."""

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
        """Whether the server will not connect again by itself."""
        return self.ended.is_set() or isinstance(self.state, Failed | Closing)

    def move(self, state: State, connection: Connection | None = None) -> None:
        """Change the state, synchronously, and tell all tasks that wait or listen.

        Args:
            state: The new state.
            connection: The connection to show with it. Ignored for `Closing`, which keeps showing the current one.
        """
        if type(state) not in LEGAL_MOVES[type(self.state)]:
            raise RuntimeError(f"Server {self.server_id!r} cannot change from {self.state} to {state}")
        self.state = state
        if not isinstance(state, Closing):
            self.connection = connection
        error = state.error if isinstance(state, BackingOff | Failed) else None
        self.last_error = error or self.last_error
        while self.queue and self.is_final:
            self.queue.pop().cancel()
        self._registry.note(StatusChanged(self.server_id, state.status, state.generation, error, state))
        self.changed.notify()

    def note_details(self, error: ConnectionLost, *, retry_at_once: bool) -> None:
        """Show the latest loss again, with its details, which may be a reason to retry without waiting."""
        self.last_error = error
        if isinstance(self.state, BackingOff) and retry_at_once:
            self.move(attrs.evolve(self.state, error=error, next_retry_at=anyio.current_time()))
        elif isinstance(self.state, BackingOff | Failed):
            self.move(attrs.evolve(self.state, error=error))

    def become_ready(self, connection: Connection, inventory: Inventory) -> None:
        """Record that the server is connected."""
        self.persistent = True
        self.update_inventory(inventory, self.begin_listing())
        now = anyio.current_time()
        self.move(Ready(attempt=self.state.attempt, generation=connection.generation, since=now), connection)

    def begin_listing(self) -> int:
        """Return the number of a listing that is about to start."""
        self._listings += 1
        return self._listings

    def update_inventory(self, inventory: Inventory, number: int) -> None:
        """Record what the server offers, unless a listing that started later has been recorded already.

        Args:
            inventory: What it offers.
            number: The number of the listing, from `begin_listing`.
        """
        if number < self._listed:
            return
        self._listed = number
        if inventory != self.inventory:
            self.inventory = inventory
            self._registry.note(CatalogChanged(self.server_id))

    def request_attempt(self) -> int:
        """Request a new connection, unless an attempt is running, and return the number of the attempt."""
        state = self.state
        if isinstance(state, Connecting | Closing):
            return state.attempt
        self.move(Connecting(attempt=state.attempt + 1, generation=state.generation, since=anyio.current_time()))
        return state.attempt + 1

    def refuse(self) -> None:
        """Accept no more calls: the server is closing."""
        state = self.state
        if not isinstance(state, Closing):
            self.move(Closing(attempt=state.attempt, generation=state.generation, since=anyio.current_time()))

    def predecessors(self) -> Iterator[Row]:
        """Yield the earlier rows with the same id that have not ended, newest first."""
        older = self.predecessor
        while older is not None:
            if not older.ended.is_set():
                yield older
            older = older.predecessor

    @contextmanager
    def joined(self) -> Generator[None]:
        """Hold a share in an attempt; when the last holder leaves a server that is not persistent, the server ends."""
        self._joined += 1
        try:
            yield
        finally:
            self._joined -= 1
            if not self._joined and not self.persistent and not self.ended.is_set():
                self.refuse()  # at once, so that a `connect` right after this one starts afresh
                self.scope.cancel()

    @contextmanager
    def in_flight(self) -> Generator[None]:
        """Count a call while it is running."""
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
    """`ERROR` if it could not be connected, otherwise `DISCONNECTED`."""
    error: ConnectError | ConnectionLost | None
    """Its last error."""


@final
@attrs.define(eq=False, repr=False)
class Registry:
    """The servers of one child group."""

    _broadcast: Broadcast
    rows: Mapping[str, Row] = attrs.field(factory=dict[str, Row], init=False)
    """The current servers by id. Every change replaces the whole mapping, so that any thread can read it."""
    remembered: Mapping[str, RememberedServer] = attrs.field(factory=dict[str, RememberedServer], init=False)
    """Servers that have left, newest last. Every change replaces the whole mapping."""
    version: int = attrs.field(default=0, init=False)
    """Grows with every change, so that what is computed from the rows can be cached."""

    @property
    def connected_count(self) -> int:
        """How many servers are `CONNECTED`."""
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

    def admit(self, target: Target, *, persistent: bool, predecessor: Row | None) -> Row:
        """Create the row of a server. Its child enters the row as a context manager; the row ends when it is left."""
        server_id = target.server_id
        if server_id in self.rows:  # it is closing: observers see it leave before its successor is added
            self.note(ServerRemoved(server_id, self.rows[server_id].last_error))
        row = Row(target, persistent, predecessor, self)
        self.rows = {**self.rows, server_id: row}  # a successor keeps its predecessor's place in the order
        if server_id in self.remembered:
            self.remembered = {other: server for other, server in self.remembered.items() if other != server_id}
        self.note(ServerAdded(server_id))
        return row

    def remove(self, row: Row) -> None:
        """Remove a row whose child has ended, and remember how it ended. Called only by the row."""
        if self.rows.get(row.server_id) is row:  # else a successor was added while it was closing
            self.rows = {other: one for other, one in self.rows.items() if one is not row}
            failed = not isinstance(row.state, Closing)
            status = ConnectionStatus.ERROR if failed else ConnectionStatus.DISCONNECTED
            if row.last_error is not None:
                forget_frames(row.last_error)
            newest = list(self.remembered.items())[-REMEMBERED_LIMIT + 1 :]
            self.remembered = {**dict(newest), row.server_id: RememberedServer(status, row.last_error)}
            self.note(ServerRemoved(row.server_id, row.last_error))

    def retire(self) -> None:
        """Stop sending events: another registry has taken over, and its readers need not see these rows end."""
        self._broadcast.send(PoolCleared())
        self._broadcast = Broadcast()

    def note(self, event: ServerAdded | StatusChanged | CatalogChanged | ServerRemoved) -> None:
        """Count a change and send an event about it."""
        self.version += 1
        self._broadcast.send(event)
