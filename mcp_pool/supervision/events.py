"""Events as frozen values, and a bounded broadcast of them."""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias, final

import attrs
from anyio.lowlevel import EventLoopToken, current_token

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.loops import check_current
from mcp_pool.errors import ConfigError
from mcp_pool.supervision.entries import CatalogEntry, ToolEntry
from mcp_pool.supervision.state import ConnectionStatus, State

BUFFER: Final = 1024
"""How many events wait for one reader. Beyond that the oldest are dropped, and the reader is told how many."""


@final
@attrs.frozen
class ServerAdded:
    """A server was added; it is connecting.

    Attributes:
        server_id: The server's id.
    """

    server_id: str


@final
@attrs.frozen
class StatusChanged:
    """A server's state changed.

    Attributes:
        server_id: The server's id.
        status: The new status; the same as before if only the state behind it changed.
        generation: How many connections there have been.
        error: What went wrong, if the status is `ERROR`.
        state: The new state with its details, such as the time of the next attempt; ignored by comparisons.
    """

    server_id: str
    status: ConnectionStatus
    generation: int
    error: Exception | None = None
    state: State | None = attrs.field(default=None, eq=False)


@final
@attrs.frozen
class CatalogChanged:
    """The catalog has changed: a listing of this server differs from the previous one, or the server fails or leaves.

    Entries are those of `MCPPool.tools`, `prompts`, `resources` and `resource_templates`, and contain the definitions.

    Attributes:
        server_id: The server's id.
        added: Entries that are new in the catalog.
        removed: Entries that are no longer in it.
        changed: Pairs of entries, the old and the new one, whose definition has changed.
        held: Tools that now wait for `Server.approve`. They are not in the catalog.
    """

    server_id: str
    added: tuple[CatalogEntry, ...] = ()
    removed: tuple[CatalogEntry, ...] = ()
    changed: tuple[tuple[CatalogEntry, CatalogEntry], ...] = ()
    held: tuple[ToolEntry, ...] = ()


@final
@attrs.frozen
class ServerRemoved:
    """A server has left the pool: its child has ended.

    Attributes:
        server_id: The server's id.
        error: Its last error, if there was one.
    """

    server_id: str
    error: Exception | None = None


@final
@attrs.frozen
class PoolCleared:
    """All servers have left at once: `close_all()` was called."""


@final
@attrs.frozen
class ConfigRejected:
    """A configuration file that is being watched has changed, but was not applied: the pool keeps its servers.

    Attributes:
        path: The file.
        error: What is wrong with it.
    """

    path: str
    error: ConfigError


@final
@attrs.frozen
class EventsDropped:
    """The reader was too slow, and events were dropped at this point.

    Attributes:
        count: How many were dropped.
    """

    count: int


ServerEvent: TypeAlias = ServerAdded | StatusChanged | CatalogChanged | ServerRemoved
"""An event about one server."""
Event: TypeAlias = (
    ServerAdded | StatusChanged | CatalogChanged | ServerRemoved | PoolCleared | ConfigRejected | EventsDropped
)


@final
@attrs.define(eq=False, repr=False)
class EventQueue:
    """The events that wait for one reader.

    Attributes:
        loop: The event loop of the reader, which must be that of the pool.
        waiting: The events, oldest first.
        dropped: How many were dropped since the reader last heard of it.
        is_closed: Whether no more events will come.
        changed: Wakes the reader.
    """

    loop: EventLoopToken = attrs.field(factory=current_token, init=False)
    waiting: deque[Event] = attrs.field(factory=deque[Event], init=False)
    dropped: int = attrs.field(default=0, init=False)
    is_closed: bool = attrs.field(default=False, init=False)
    changed: Changed = attrs.field(factory=Changed, init=False)

    def put(self, event: Event) -> None:
        """Add an event for the reader; if the reader is too slow, drop the oldest."""
        if len(self.waiting) == BUFFER:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(event)
        self.changed.notify()

    def close(self) -> None:
        """End the reader's iteration after the events that are waiting."""
        self.is_closed = True
        self.changed.notify()


@final
@attrs.define(eq=False, repr=False)
class Broadcast:
    """Delivers each event to all readers without waiting for any of them.

    Attributes:
        is_closed: Whether no more events will come.
    """

    is_closed: bool = attrs.field(default=False, init=False)
    _queues: set[EventQueue] = attrs.field(factory=set[EventQueue], init=False)

    def check_loop(self) -> None:
        """Raise `RuntimeError` if a reader belongs to another event loop, where it could not be woken."""
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
        """Deliver an event to all readers."""
        for queue in self._queues:
            queue.put(event)

    def close(self) -> None:
        """End all iterations: no more events will come."""
        self.is_closed = True
        for queue in self._queues:
            queue.close()
