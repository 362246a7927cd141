"""Subscriptions to resources: what callers wait for, whatever connection it comes from."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Self, final

import anyio
import attrs
from anyio.lowlevel import EventLoopToken, current_token

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.loops import check_current
from mcp_pool.errors import MCPPoolError

MAX_PENDING: Final = 256
"""How many different URIs wait for a slow reader. Beyond that, the reader is told that it may have missed some."""


@final
@attrs.frozen
class ResourceUpdate:
    """A resource has changed, or may have: read it again.

    Attributes:
        server_id: The server's id.
        uri: The URI of what has changed. It may be below the one that was subscribed to.
        may_have_missed: Whether updates may have been missed before this one: the connection was lost and is back, or
            the reader was too slow. The resource may then be unchanged.
    """

    server_id: str
    uri: str
    may_have_missed: bool = False


@final
@attrs.define(eq=False, repr=False)
class Feed:
    """The updates that wait for one reader."""

    server_id: str
    """The server."""
    uri: str
    """What was subscribed to."""
    is_confirmed: bool = attrs.field(default=False, init=False)
    """Whether a server has ever confirmed the subscription."""
    end: Exception | None = attrs.field(default=None, init=False)
    """Why it has ended; None until then."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes the reader."""
    _pending: dict[str, None] = attrs.field(factory=dict[str, None], init=False)
    """The URIs of updates that have not been read, oldest first."""
    _missed: bool = attrs.field(default=False, init=False)
    """Whether updates may have been missed since the latest one that was read."""

    def put(self, uri: str) -> None:
        """Add an update."""
        if len(self._pending) < MAX_PENDING or uri in self._pending:
            self._pending[uri] = None
        else:
            self._missed = True
        self.changed.notify()

    def confirm(self) -> None:
        """Record that a server sends updates from now on; any that came since it last did are lost."""
        self._missed = self._missed or self.is_confirmed
        self.is_confirmed = True
        self.changed.notify()

    def finish(self, error: Exception) -> None:
        """End it, after what has not been read yet."""
        self.end = self.end or error
        self.changed.notify()

    async def receive(self) -> ResourceUpdate:
        """Return the next update, or raise what ended the subscription."""
        await self.changed.until(lambda: self._pending or self._missed or self.end)
        missed, self._missed = self._missed, False
        if self._pending:
            uri = next(iter(self._pending))
            del self._pending[uri]
            return ResourceUpdate(self.server_id, uri, missed)
        if not missed and self.end is not None:
            raise self.end
        return ResourceUpdate(self.server_id, self.uri, may_have_missed=True)


@final
@attrs.frozen(eq=False, repr=False)
class Subscription:
    """An async iterator of the updates of one resource. Returned by `MCPPool.subscribe`, not constructed directly.

    Several updates of one URI that have not been read yet are one. It survives reconnects: after each, there is one
    update with `may_have_missed`. It ends with `ServerUnavailable` when its server has left the pool or has failed.
    """

    _feed: Feed
    _loop: EventLoopToken = attrs.field(factory=current_token, init=False)

    def __repr__(self) -> str:
        return f"<Subscription to a resource of server {self._feed.server_id!r}>"

    @property
    def server_id(self) -> str:
        """The server's id."""
        return self._feed.server_id

    @property
    def uri(self) -> str:
        """The URI that was subscribed to."""
        return self._feed.uri

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ResourceUpdate:
        check_current(self._loop)
        await anyio.lowlevel.checkpoint()
        return await self._feed.receive()


@final
@attrs.define(eq=False, repr=False)
class Subscriptions:
    """The subscriptions to one server."""

    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes the task that subscribes and unsubscribes."""
    _feeds: set[Feed] = attrs.field(factory=set[Feed], init=False)

    @property
    def uris(self) -> set[str]:
        """What is subscribed to."""
        return {feed.uri for feed in self._feeds if feed.end is None}

    @contextmanager
    def opened(self, server_id: str, uri: str) -> Generator[Feed]:
        """Hold a new subscription."""
        feed = Feed(server_id, uri)
        self._feeds.add(feed)
        self.changed.notify()
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            self.changed.notify()

    def of(self, uri: str) -> list[Feed]:
        """Return the subscriptions to a URI."""
        return [feed for feed in self._feeds if feed.uri == uri]

    def deliver(self, uri: str) -> None:
        """Tell an update to those who subscribed to this URI, or to one that it is below."""
        for feed in self._feeds:
            if uri == feed.uri or uri.startswith(f"{feed.uri.rstrip('/')}/"):
                feed.put(uri)

    def finish(self, error: MCPPoolError) -> None:
        """End all of them."""
        for feed in self._feeds:
            feed.finish(error.again())
