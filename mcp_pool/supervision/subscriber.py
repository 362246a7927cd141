"""Subscribes to resources of one server, while a connection is open."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final, final

import anyio
import attrs
from anyio.abc import TaskGroup
from mcp.client.subscriptions import ResourceUpdated, ServerEvent
from mcp_types import (
    EmptyResult,
    SubscribeRequest,
    SubscribeRequestParams,
    SubscriptionFilter,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from mcp_pool.config.settings import DEFAULT
from mcp_pool.connection.change_stream import ChangeStream
from mcp_pool.connection.connection import Connection
from mcp_pool.errors import InvalidResponse
from mcp_pool.supervision.subscriptions import Subscriptions

UNSUBSCRIBE_TIMEOUT: Final = 1.0
"""Seconds for telling a legacy server that nobody subscribes to a URI any more. Nothing depends on its answer."""


@final
@attrs.define(eq=False, repr=False)
class Subscriber:
    """Keeps one server informed of what is subscribed to, over one connection."""

    subscriptions: Subscriptions
    """The subscriptions."""
    connection: Connection
    """The connection."""
    _running: dict[str, anyio.CancelScope] = attrs.field(factory=dict[str, anyio.CancelScope], init=False)
    """The task for each URI."""
    _confirmed: set[str] = attrs.field(factory=set[str], init=False)
    """What the server has confirmed on this connection."""

    async def run(self) -> None:
        """Subscribe and unsubscribe, until cancelled."""
        async with anyio.create_task_group() as group:
            if not self.connection.is_modern:  # the SDK also shows what arrives on streams: an update would come twice
                group.start_soon(self._deliver)
            while True:
                self._start_and_stop(group)
                await self.subscriptions.changed.wait()  # no change is missed: there is no await in between

    def _start_and_stop(self, group: TaskGroup) -> None:
        """Start a task for each new URI, and cancel those that nobody subscribes to any more."""
        wanted = self.subscriptions.uris
        for uri in wanted - self._running.keys():
            self._running[uri] = anyio.CancelScope()
            group.start_soon(self._subscribe, uri, self._running[uri])
        for uri in self._running.keys() - wanted:
            self._confirmed.discard(uri)
            self._running.pop(uri).cancel()
        for uri in wanted & self._confirmed:
            for feed in self.subscriptions.of(uri):
                if not feed.is_confirmed:  # another subscription to the same resource came first
                    feed.confirm()

    async def _deliver(self) -> None:
        """Deliver the notifications of a legacy server."""
        updates = self.connection.dispatcher.updates
        while True:
            await updates.changed.until(lambda: updates.uris)
            for uri in updates.take():
                self.subscriptions.deliver(uri)

    async def _subscribe(self, uri: str, scope: anyio.CancelScope) -> None:
        with scope:
            if self.connection.is_modern:
                await self._listen(uri)
            else:
                await self._request(uri)

    async def _listen(self, uri: str) -> None:
        connection = self.connection
        stream = ChangeStream(
            connection.target,
            connection.channel,
            {"resource_subscriptions": [uri]},
            on_event=partial(self._on_event, uri),
            on_open=lambda honored, _: self._on_open(uri, honored),
            on_refused=partial(self._refuse, uri),
        )
        await stream.run(connection.client)

    async def _request(self, uri: str) -> None:
        """Subscribe, and unsubscribe when nobody subscribes to the URI any more."""
        connection = self.connection
        request: Any = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
        failure: Exception | None = None
        try:
            await connection.call(
                lambda _: connection.client.session.send_request(request, EmptyResult),
                what=f"the subscription to {uri!r}",
                timeout=DEFAULT,
                started_at=anyio.current_time(),
            )
        except Exception as error:  # noqa: BLE001  # told to those who subscribe
            failure = error
        if failure is not None:
            if not connection.closed.is_set():
                self._refuse(uri, failure)
            return
        self._confirm(uri)
        try:
            await anyio.sleep_forever()
        finally:
            if not connection.closed.is_set():
                with anyio.move_on_after(UNSUBSCRIBE_TIMEOUT, shield=True):
                    await self._unsubscribe(uri)

    async def _unsubscribe(self, uri: str) -> None:
        request: Any = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
        with suppress(Exception):
            await self.connection.call(
                lambda _: self.connection.client.session.send_request(request, EmptyResult),
                what=f"the end of the subscription to {uri!r}",
                timeout=UNSUBSCRIBE_TIMEOUT,
                started_at=anyio.current_time(),
            )

    def _on_open(self, uri: str, honored: SubscriptionFilter) -> None:
        if uri in (honored.resource_subscriptions or ()):
            self._confirm(uri)
            return
        server_id = self.connection.target.server_id
        reason = f"Server {server_id!r} accepts the subscription, but does not send updates of resource {uri!r}."
        advice = "Subscribe to another resource, or read this one again from time to time."
        self._refuse(uri, InvalidResponse(reason, advice=advice, server_id=server_id, phase="call"))

    def _on_event(self, uri: str, event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated):
            for feed in self.subscriptions.of(uri):
                feed.put(event.uri)

    def _confirm(self, uri: str) -> None:
        self._confirmed.add(uri)
        for feed in self.subscriptions.of(uri):
            feed.confirm()

    def _refuse(self, uri: str, error: Exception) -> None:
        for feed in self.subscriptions.of(uri):
            feed.finish(error)
