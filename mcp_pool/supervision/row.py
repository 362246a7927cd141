"""One current server: what others can see of it and request from its child.

Its state changes synchronously, and only by legal transitions. Tasks wait for a condition to hold, never for a
notification at the right moment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, final

import anyio
import attrs

from mcp_pool._shared.changed import Changed
from mcp_pool.config.settings import NameTool
from mcp_pool.config.target import Target
from mcp_pool.connection.listing import Listings, Part
from mcp_pool.errors import ConnectError, ConnectionLost, MCPPoolError, ServerUnavailable
from mcp_pool.supervision.counters import Counters, Counts
from mcp_pool.supervision.events import CatalogChanged, ServerEvent, StatusChanged
from mcp_pool.supervision.offer import NOTHING, Offer
from mcp_pool.supervision.offering import Offering
from mcp_pool.supervision.state import LEGAL_MOVES, BackingOff, Closing, Connecting, Failed, Ready, State
from mcp_pool.supervision.subscriptions import Subscriptions

if TYPE_CHECKING:  # loaded with the first pool
    from mcp_pool.connection.connection import Connection

CLOSED_WITH_ALL: Final = "was closed with all servers of the pool"
"""Why a server is closing when the block ends or `close_all` was called."""


@final
@attrs.frozen(eq=False, repr=False)
class View:
    """What others see of one server at one moment.

    Replaced as a whole: a reader in another thread never finds a new state with an old connection or without its error.
    """

    state: State
    """Its state."""
    connection: Connection | None = None
    """The connection that takes calls, or that drains while the server is closing. The child owns it."""
    last_error: ConnectError | ConnectionLost | None = None
    """The latest failure, even if the server has reconnected since."""
    is_offered: bool = True
    """Whether what the server offers is in the catalog: not once it has failed, nor when it then leaves."""


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
    note: Callable[[ServerEvent], None]
    """Sends an event to all listeners."""
    counters: Counters
    """Count its calls and restarts."""
    place: int
    """Its place in the order of servers, which a server that returns takes again."""
    _name_tool: NameTool | None
    _owner_of: Callable[[Row, str], str | None]
    """Returns the id of a server other than this one that offers a tool with a catalog name."""
    _remove: Callable[[Row], None]
    """Removes it from its registry."""
    view: View = attrs.field(init=False)
    """What others see of it now."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes all tasks that wait for a change of this row."""
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    """The scope of the child; cancelling it ends the child."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the child has ended and the row is gone."""
    offering: Offering = attrs.field(init=False)
    """What it offers."""
    subscriptions: Subscriptions = attrs.field(factory=Subscriptions, init=False)
    """What callers have subscribed to. Those of a row that is replaced go to its successor."""
    earlier_restarts: int = attrs.field(init=False)
    """Restarts of servers with this id before this row was added."""
    slots: anyio.Semaphore | None = attrs.field(init=False)
    """One slot for each call that may run at once; None for no limit."""
    queue: set[anyio.CancelScope] = attrs.field(factory=set[anyio.CancelScope], init=False)
    """Calls that wait for a slot; they stop waiting when the server fails or closes."""
    calls_in_flight: int = attrs.field(default=0, init=False)
    """Calls that are running, including those on an earlier connection that drains."""
    close_reason: str = attrs.field(default="was disconnected", init=False)
    """Why it is closing or has ended: the predicate of a sentence about the server."""
    _joined: int = attrs.field(default=0, init=False)
    """How many callers wait for an attempt."""

    def __attrs_post_init__(self) -> None:
        self.view = View(Connecting(attempt=1, generation=0, since=anyio.current_time()))
        self.earlier_restarts = self.counters.admit(self.server_id, self).restarts
        self.offering = Offering(self.target, self._name_tool, self.is_stale, partial(self._owner_of, self))
        most = self.target.spec.max_in_flight
        self.slots = None if most is None else anyio.Semaphore(most)

    def __enter__(self) -> Row:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.counters.release(self.server_id, self)
        self._remove(self)
        self._end_subscriptions(f"Server {self.server_id!r} {self.close_reason}.")
        self.ended.set()
        self.changed.notify()

    @property
    def server_id(self) -> str:
        """The server's id in the pool."""
        return self.target.server_id

    @property
    def state(self) -> State:
        """Its state."""
        return self.view.state

    @property
    def connection(self) -> Connection | None:
        """The connection that takes calls, or that drains."""
        return self.view.connection

    @property
    def last_error(self) -> ConnectError | ConnectionLost | None:
        """The latest failure, even if the server has reconnected since."""
        return self.view.last_error

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
        error, offered = state.error if isinstance(state, BackingOff | Failed) else None, self.offer
        shown = self.connection if isinstance(state, Closing) else connection
        # A server that has failed must not come back into the catalog while it closes.
        is_offered = self.view.is_offered if isinstance(state, Closing) else not isinstance(state, Failed)
        self.view = View(state, shown, error or self.last_error, is_offered)
        if isinstance(state, Failed):
            self._end_subscriptions(f"Server {self.server_id!r} has failed, and automatic reconnects have stopped.")
        while self.queue and self.is_final:
            self.queue.pop().cancel()
        self.note(StatusChanged(self.server_id, state.status, state.generation, error, state))
        if offered is not self.offer:
            self.note_change(offered.change_to(self.offer, self.server_id))
        self.changed.notify()

    def note_details(self, error: ConnectionLost, *, retry_at_once: bool) -> None:
        """Show the latest loss again, with its details, which may be a reason to retry without waiting."""
        self.view = attrs.evolve(self.view, last_error=error)
        if isinstance(self.state, BackingOff) and retry_at_once:
            self.move(attrs.evolve(self.state, error=error, next_retry_at=anyio.current_time()))
        elif isinstance(self.state, BackingOff | Failed):
            self.move(attrs.evolve(self.state, error=error))

    def become_ready(self, connection: Connection, listings: Listings) -> None:
        """Record that the server is connected."""
        self.persistent = True
        if connection.generation > 1:
            self.count(Counts(restarts=1))
        self.update_offer(listings, self.offering.begin_listing())
        now = anyio.current_time()
        self.move(Ready(attempt=self.state.attempt, generation=connection.generation, since=now), connection)

    def count(self, counts: Counts) -> None:
        """Add to the counters of its id."""
        self.counters.add(self.server_id, counts)

    @property
    def offer(self) -> Offer:
        """What it offers in the catalog: nothing once its automatic reconnects have stopped."""
        return self.offering.offer if self.view.is_offered else NOTHING

    def is_stale(self, part: Part) -> bool:
        """Return whether a part of its offer is not certain to be what it offers now."""
        return not isinstance(self.state, Ready) or part in self.offering.failed

    def update_offer(self, listings: Listings, number: int) -> MCPPoolError | None:
        """Take over what was listed; see `Offering.update`. What a server offers that is closing does not matter.

        Returns:
            Why the listed tools were not taken over, if so: they then count as a listing that failed.
        """
        if isinstance(self.state, Closing):
            return None
        failure: MCPPoolError | None = None
        try:
            change = self.offering.update(listings, number)
        except MCPPoolError as error:
            failure = error
            change = self.offering.update({**listings, "tools": error}, number)
        self._note_if_offered(change)
        self.changed.notify()
        return failure

    def approve(self, name: str, fingerprint: str) -> None:
        """Offer a tool that is held; see `Server.approve`."""
        self._note_if_offered(self.offering.approve(name, fingerprint))

    def _note_if_offered(self, change: CatalogChanged | None) -> None:
        """Send the event about a change, unless the server has failed: then nothing of it is in the catalog."""
        if self.view.is_offered:
            self.note_change(change)

    def note_change(self, change: CatalogChanged | None) -> None:
        """Send the event about a change of its offer, if there is one."""
        if change is not None:
            self.note(change)

    def request_attempt(self) -> int:
        """Request a new connection, unless an attempt is running, and return the number of the attempt."""
        state = self.state
        if isinstance(state, Connecting | Closing):
            return state.attempt
        self.move(Connecting(attempt=state.attempt + 1, generation=state.generation, since=anyio.current_time()))
        return state.attempt + 1

    def refuse(self, why: str = "was disconnected") -> None:
        """Accept no more calls: the server is closing.

        Args:
            why: The `close_reason`; only the first one counts.
        """
        state = self.state
        if not isinstance(state, Closing):
            self.close_reason = why
            self.move(Closing(attempt=state.attempt, generation=state.generation, since=anyio.current_time()))

    def _end_subscriptions(self, reason: str) -> None:
        error = ServerUnavailable(reason, advice="Subscribe again once it is connected.", server_id=self.server_id)
        self.subscriptions.finish(error)

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
