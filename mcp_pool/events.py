"""What happened, as frozen values, and a bounded broadcast of them."""

from __future__ import annotations

from collections import deque
from typing import Final, Self, TypeAlias, final

import anyio
import attrs

from mcp_pool.lifecycle import ConnectionStatus

BUFFER: Final = 1024
"""Events that wait for a listener; the oldest are dropped, and the listener learns how many."""


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


@final
@attrs.frozen
class ToolsChanged:
    """What a server offers was listed anew and differs from before."""

    server_id: str


@final
@attrs.frozen
class ServerRemoved:
    """A server has departed: its child has ended."""

    server_id: str
    error: Exception | None = None
    """Its last error, if it departed with one."""


@final
@attrs.frozen
class PoolCleared:
    """All servers that had been admitted have left at once: `close_all()` was called."""


@final
@attrs.frozen
class EventsMissed:
    """The listener was too slow: so many events were dropped at this point."""

    count: int


Event: TypeAlias = ServerAdded | StatusChanged | ToolsChanged | ServerRemoved | PoolCleared | EventsMissed


@final
@attrs.define(eq=False, repr=False)
class Listener:
    """One listener's view of the events, in order. Iterate over it; it ends with the pool's block."""

    _waiting: deque[Event] = attrs.field(factory=deque[Event], init=False)
    _missed: int = attrs.field(default=0, init=False)
    _news: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    def put(self, event: Event) -> None:
        """Keep an event for the listener, dropping the oldest when it is too slow."""
        if len(self._waiting) == BUFFER:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(event)
        self._news.set()

    def end(self) -> None:
        """Let the iteration end when what waits has been seen."""
        self._ended = True
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await anyio.lowlevel.checkpoint()
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(missed)
        return self._waiting.popleft()


@final
@attrs.define(eq=False, repr=False)
class Broadcast:
    """Hands each event to all who listen, at once and without waiting for any."""

    _listeners: set[Listener] = attrs.field(factory=set[Listener], init=False)

    def listen(self) -> Listener:
        """Add a listener."""
        listener = Listener()
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Remove a listener; its iteration ends."""
        self._listeners.discard(listener)
        listener.end()

    def send(self, event: Event) -> None:
        """Hand an event to all who listen."""
        for listener in self._listeners:
            listener.put(event)

    def end(self) -> None:
        """End all iterations: nothing more will happen."""
        for listener in self._listeners:
            listener.end()
