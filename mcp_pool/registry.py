"""The rows of the living, and the few departed. `Registry.admit` is the only way in, a row's end the only way out.

A row is born when a server is admitted, and lives exactly as long as its child. Its state changes synchronously, by
legal moves only; who waits for something waits for a condition to hold, never for a moment to pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, TracebackType
from typing import Final, final

import anyio
import attrs

from mcp_pool.config import ServerConfig
from mcp_pool.connection import Connection
from mcp_pool.errors import ConnectError, ConnectionLost, forget_frames
from mcp_pool.events import Broadcast, PoolCleared, ServerAdded, ServerRemoved, StatusChanged, ToolsChanged
from mcp_pool.inventory import Inventory
from mcp_pool.lifecycle import (
    LEGAL_MOVES,
    BackingOff,
    Closing,
    Connecting,
    ConnectionStatus,
    Parked,
    Ready,
    State,
)
from mcp_pool.redaction import Redactor
from mcp_pool.settings import Limits
from mcp_pool.stats import CallCounts, ServerSnapshot

DEPARTED_LIMIT: Final = 1024
"""How many departed servers are remembered: enough to look something up, bounded however many come and go."""


@final
@attrs.define(eq=False, repr=False)
class Row:
    """One living server."""

    server_id: str
    """Its id in the pool."""
    spec: ServerConfig = attrs.field(repr=False)
    """What to connect to."""
    limits: Limits = attrs.field(repr=False)
    """Its bounds, with the pool's defaults filled in."""
    kept: bool = attrs.field(repr=False)
    """Whether it stays when a dial fails: True for `add`, and for `connect` once it has been connected."""
    predecessor: Row | None = attrs.field(repr=False)
    """An earlier row of the same id that had not ended yet."""
    _registry: Registry = attrs.field(repr=False)
    state: State = attrs.field(init=False)
    """How it stands."""
    redactor: Redactor = attrs.field(init=False, repr=False)
    """Removes its secrets from texts and errors."""
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False, repr=False)
    """Holds the child; cancelling it ends the child."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the child has ended and the row is gone."""
    last_error: ConnectError | ConnectionLost | None = attrs.field(default=None, init=False, repr=False)
    """The latest failure, also when the server has come back since."""
    inventory: Inventory | None = attrs.field(default=None, init=False, repr=False)
    """What it offered when it was last listed; None before the first time."""
    calls: CallCounts = attrs.field(factory=CallCounts, init=False, repr=False)
    """How its calls ended so far."""
    slots: anyio.Semaphore | None = attrs.field(init=False, repr=False)
    """One for each call that may run at once; None: no bound."""
    queue: set[anyio.CancelScope] = attrs.field(factory=set[anyio.CancelScope], init=False, repr=False)
    """Calls that wait for a slot: in vain, once the server is parked or leaves."""
    calls_in_flight: int = attrs.field(default=0, init=False, repr=False)
    """Calls that a connection has taken and that have not ended, those of an earlier connection included."""
    _joined: int = attrs.field(default=0, init=False, repr=False)
    _changed: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.state = Connecting(attempt=1, generation=0, since=anyio.current_time())
        # What the id itself says is no secret: it stands in every message.
        self.redactor = Redactor.of(self.spec.secrets(), known=self.server_id)
        most = self.spec.max_in_flight
        self.slots = None if most is None else anyio.Semaphore(most)

    def __enter__(self) -> Row:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._registry.remove(self)
        self.ended.set()
        self._notify()

    @property
    def connection(self) -> Connection | None:
        """The connection that stands or is being drained."""
        return self.state.connection if isinstance(self.state, Ready | Closing) else None

    def move(self, state: State) -> None:
        """Change the state, synchronously, and tell all who wait or listen."""
        if type(state) not in LEGAL_MOVES[type(self.state)]:
            raise RuntimeError(f"Server {self.server_id!r} may not go from {self.state} to {state}")
        self.state = state
        if isinstance(state, BackingOff | Parked):
            self.last_error = state.error
        while self.queue and isinstance(state, Parked | Closing):
            self.queue.pop().cancel()
        error = state.error if isinstance(state, BackingOff | Parked) else None
        self._registry.note(StatusChanged(self.server_id, state.status, state.generation, error))
        self._notify()

    def become_ready(self, connection: Connection, inventory: Inventory) -> None:
        """Note that the connection stands."""
        self.kept = True
        self.list_anew(inventory)
        self.move(
            Ready(
                attempt=self.state.attempt,
                generation=connection.generation,
                since=anyio.current_time(),
                connection=connection,
            )
        )

    def list_anew(self, inventory: Inventory) -> None:
        """Note what the server offers now."""
        if inventory != self.inventory:
            self.inventory = inventory
            self._registry.note(ToolsChanged(self.server_id))

    def dial_again(self) -> int:
        """Ask for a dial, unless one is under way, and return its number."""
        state = self.state
        if isinstance(state, Connecting | Closing):
            return state.attempt
        self.move(Connecting(attempt=state.attempt + 1, generation=state.generation, since=anyio.current_time()))
        if isinstance(state, Ready):
            state.connection.end("is being restarted")
        return state.attempt + 1

    def refuse(self) -> None:
        """Take no more calls: the server is leaving."""
        state = self.state
        if not isinstance(state, Closing):
            self.move(
                Closing(
                    attempt=state.attempt,
                    generation=state.generation,
                    since=anyio.current_time(),
                    connection=self.connection,
                )
            )

    def predecessors(self) -> Iterator[Row]:
        """Return the earlier rows of the same id that have not ended, the newest first."""
        older = self.predecessor
        while older is not None:
            if not older.ended.is_set():
                yield older
            older = older.predecessor

    @contextmanager
    def joined(self) -> Generator[None]:
        """Wait for the first outcome together with others; the last to leave a dial that nobody keeps ends it."""
        self._joined += 1
        try:
            yield
        finally:
            self._joined -= 1
            if not self._joined and not self.kept and not self.ended.is_set():
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
                self._notify()

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self.until(lambda: not self.calls_in_flight)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on this row holds."""
        while not condition():
            await self._changed.wait()

    def snapshot(self) -> ServerSnapshot:
        """Return how the server stands now."""
        state, connection = self.state, self.connection
        return ServerSnapshot(
            server_id=self.server_id,
            status=state.status,
            state=type(state).__name__,
            since=state.since,
            generation=state.generation,
            attempt=state.attempt,
            last_error=self.last_error,
            next_try=state.retry_at if isinstance(state, BackingOff) else None,
            protocol_version=connection.protocol_version if connection is not None else None,
            process_id=connection.link.process_id if connection is not None else None,
            calls_in_flight=self.calls_in_flight,
            calls_done=self.calls.done,
            calls_failed=self.calls.failed,
            restarts=max(0, state.generation - 1),
        )

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@final
@attrs.frozen
class Departed:
    """What is remembered of a server that has left."""

    status: ConnectionStatus
    """`ERROR` when it could not be connected, otherwise `DISCONNECTED`."""
    error: ConnectError | ConnectionLost | None
    """Its last error."""


@final
@attrs.define(eq=False, repr=False)
class Registry:
    """The servers of one generation of the pool."""

    _broadcast: Broadcast
    rows: Mapping[str, Row] = attrs.field(init=False)
    """The living, by id; read-only."""
    departed: OrderedDict[str, Departed] = attrs.field(factory=OrderedDict[str, Departed], init=False)
    """The departed, the newest last."""
    version: int = attrs.field(default=0, init=False)
    """Grows with every change, so that what is computed from the rows can be kept until then."""
    _rows: dict[str, Row] = attrs.field(factory=dict[str, Row], init=False)

    def __attrs_post_init__(self) -> None:
        self.rows = MappingProxyType(self._rows)

    @property
    def connected_count(self) -> int:
        """How many servers are `CONNECTED`."""
        return sum(row.state.status is ConnectionStatus.CONNECTED for row in self._rows.values())

    def admit(self, server_id: str, spec: ServerConfig, limits: Limits, *, kept: bool, predecessor: Row | None) -> Row:
        """Make the row of a server. Its child enters it as a context manager; leaving it is the row's end."""
        if server_id in self._rows:  # it is closing; for who looks on, it goes before its successor comes
            self.note(ServerRemoved(server_id, self._rows[server_id].last_error))
        row = Row(server_id, spec, limits, kept, predecessor, self)
        self._rows[server_id] = row
        self.departed.pop(server_id, None)
        self.note(ServerAdded(server_id))
        return row

    def remove(self, row: Row) -> None:
        """Forget a row whose child has ended, and remember how it left. Called by the row only."""
        if self._rows.get(row.server_id) is row:  # not a successor that was admitted while it was closing
            del self._rows[row.server_id]
            failed = not isinstance(row.state, Closing)
            status = ConnectionStatus.ERROR if failed else ConnectionStatus.DISCONNECTED
            if row.last_error is not None:
                forget_frames(row.last_error)
            self.departed[row.server_id] = Departed(status, row.last_error)
            while len(self.departed) > DEPARTED_LIMIT:
                self.departed.popitem(last=False)
            self.note(ServerRemoved(row.server_id, row.last_error))

    def retire(self) -> None:
        """Become invisible: another registry has taken over, and the rows that still end here are no news."""
        self._broadcast.send(PoolCleared())
        self._broadcast = Broadcast()

    def note(self, event: ServerAdded | StatusChanged | ToolsChanged | ServerRemoved) -> None:
        """Count a change and tell the listeners."""
        self.version += 1
        self._broadcast.send(event)
