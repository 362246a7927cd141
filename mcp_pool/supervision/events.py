"""What happened, as frozen values, and a bounded broadcast of them."""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias, final

import attrs
from anyio.lowlevel import EventLoopToken, current_token

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.loops import check_current
from mcp_pool.supervision.state import ConnectionStatus, State

BUFFER: Final = 1024
"""Events that wait for a reader; the oldest are dropped, and the reader learns how many."""


@final
@attrs.frozen
class ServerAdded:
    """A server was admitted; it is connecting."""

    server_id: str


@final
@attrs.frozen
class StatusChanged:
    """A server's state changed."""

    server_id: str
    status: ConnectionStatus
    """The new status; equal to the old one where only the state behind it changed."""
    generation: int
    """How many connections there have been."""
    error: Exception | None = None
    """Why, for the status `ERROR`."""
    state: State | None = attrs.field(default=None, eq=False)
    """The new state, with its details, such as when the next attempt begins; no part of an equality."""


@final
@attrs.frozen
class CatalogChanged:
    """A new listing of what a server offers differs from the one before."""

    server_id: str


@final
@attrs.frozen
class ServerRemoved:
    """A server has left the pool: its child has ended."""

    server_id: str
    error: Exception | None = None
    """Its last error, if it left with one."""


@final
@attrs.frozen
class PoolCleared:
    """All servers that had been admitted have left at once: `close_all()` was called."""


@final
@attrs.frozen
class EventsDropped:
    """The reader was too slow: so many events were dropped at this point."""

    count: int


ServerEvent: TypeAlias = ServerAdded | StatusChanged | CatalogChanged | ServerRemoved
"""What happens to one server."""
Event: TypeAlias = ServerEvent | PoolCleared | EventsDropped


@final
@attrs.define(eq=False, repr=False)
class EventQueue:
    """The events that wait for one reader."""

    loop: EventLoopToken = attrs.field(factory=current_token, init=False)
    """The event loop of the reader, which is that of the pool."""
    waiting: deque[Event] = attrs.field(factory=deque[Event], init=False)
    """The events, the oldest first."""
    dropped: int = attrs.field(default=0, init=False)
    """How many were dropped since the reader was last told."""
    is_closed: bool = attrs.field(default=False, init=False)
    """Whether no more will come."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes the reader."""

    def put(self, event: Event) -> None:
        """Keep an event for the reader, dropping the oldest when it is too slow."""
        if len(self.waiting) == BUFFER:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(event)
        self.changed.notify()

    def close(self) -> None:
        """Let the reader end when it has seen what is waiting."""
        self.is_closed = True
        self.changed.notify()


@final
@attrs.define(eq=False, repr=False)
class Broadcast:
    """Hands each event to all readers, at once and without waiting for any."""

    is_closed: bool = attrs.field(default=False, init=False)
    """Whether nothing more will happen."""
    _queues: set[EventQueue] = attrs.field(factory=set[EventQueue], init=False)

    def check_loop(self) -> None:
        """Raise `RuntimeError` when a reader belongs to another event loop: there it could not be woken."""
        for queue in self._queues:
            check_current(queue.loop)

    def subscribe(self) -> EventQueue:
        """Add a reader."""
        queue = EventQueue()
        self._queues.add(queue)
        return queue

    def unsubscribe(self, queue: EventQueue) -> None:
        """Remove a reader; its iteration ends."""
        self._queues.discard(queue)
        queue.close()

    def send(self, event: Event) -> None:
        """Hand an event to all readers."""
        for queue in self._queues:
            queue.put(event)

    def close(self) -> None:
        """End all iterations: nothing more will happen."""
        self.is_closed = True
        for queue in self._queues:
            queue.close()
