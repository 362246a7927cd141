"""A server over the older HTTP with SSE, as a transport for `mcp.Client`.

One stream of events brings all messages of the server, and each message of ours is posted (MCP specification
2024-11-05, Transports, HTTP with SSE). The wire is down when the stream has ended or a post has failed: the SDK would
answer every later call "Connection closed" without an end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, final

import anyio
import attrs
import httpx2
from anyio.abc import TaskGroup
from mcp.client.sse import sse_client
from mcp_types import JSONRPCNotification

from mcp_pool.config import SseServer
from mcp_pool.transports.bodies import TooLong, watch
from mcp_pool.transports.exchange import refused, unreachable
from mcp_pool.transports.http_client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.link import CallRecord, Failure, Link, Loss, ReadTap, WriteTap

POST_TIMEOUT: Final = 30.0
"""Seconds for a server to take a message; the answer comes another way."""
POST_LIMIT: Final = 1000
"""Posts under way at once; a server that is so far behind takes no more."""


@asynccontextmanager
async def sse_transport(spec: SseServer, link: Link) -> AsyncGenerator[tuple[ReadTap, WriteTap]]:
    """Make the transport of one connection.

    Args:
        spec: What to connect to.
        link: Learns what happens on the wire.
    """
    async with anyio.create_task_group() as background:
        wire = _SseWire(link, spec.max_message_size, background)

        def make_client(
            headers: dict[str, str] | None = None,  # noqa: ARG001  # the SDK's own settings, which ours replace
            timeout: httpx2.Timeout | None = None,  # noqa: ARG001
            auth: httpx2.Auth | None = None,  # noqa: ARG001
        ) -> httpx2.AsyncClient:
            return ServerHttpClient(spec.url, wire, headers=spec.headers, auth=spec.auth, lender=spec.http_client)

        async with sse_client(spec.url, httpx_client_factory=make_client) as (read, write):
            try:
                yield ReadTap(read, link), WriteTap(Outbox(write), link)
            finally:
                background.cancel_scope.cancel()


@final
@attrs.define(eq=False)
class _SseWire:
    """Opens the stream, and posts each message in a task of its own: the SDK would post all behind the slowest."""

    link: Link
    max_message_size: int
    background: TaskGroup
    _under_way: int = attrs.field(default=0, init=False)

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. One that carries a message raises no error: a failure takes the wire down."""
        outgoing = current_message.get()
        if outgoing is None:
            return await (self._open(request, forward) if request.method == "GET" else forward(request))
        message, record = outgoing[0].message, outgoing[1]
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            await self._post(request, forward, record)  # what follows must find the server ready
        elif self._under_way < POST_LIMIT:
            self._under_way += 1
            self.background.start_soon(self._post_counted, request, forward, record)
        else:
            self._fail(Loss(f"takes no messages any more: {POST_LIMIT} are waiting"), record, ran=False)
        return httpx2.Response(202, request=request)

    async def _open(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        try:
            response = await forward(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            self.link.lose(unreachable(request.url, error))
            raise
        except Exception as error:
            self.link.lose(refused(Failure(f"broke off with {type(error).__name__}", cause=error)))
            raise
        if not response.is_success and response.next_request is None:
            status = response.status_code
            self.link.lose(refused(Failure(f"answered with HTTP status {status}", status=status)))
        return watch(response, self.max_message_size, self._note_end)

    def _note_end(self, error: Exception | None) -> None:
        if isinstance(error, TooLong):
            self.link.lose(Loss(f"sent an event longer than max_message_size={self.max_message_size} bytes"))
        else:
            self.link.lose(Loss("ended its stream of events", cause=error))

    async def _post_counted(self, request: httpx2.Request, forward: Forward, record: CallRecord | None) -> None:
        try:
            await self._post(request, forward, record)
        finally:
            self._under_way -= 1

    async def _post(self, request: httpx2.Request, forward: Forward, record: CallRecord | None) -> None:
        handed_over = False

        async def trace(event: str, _info: object) -> None:
            nonlocal handed_over
            handed_over = handed_over or event.endswith("send_request_headers.started")

        request.extensions = {**request.extensions, "trace": trace}
        try:
            with anyio.fail_after(POST_TIMEOUT):
                response = await forward(request)
                await response.aclose()
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            self._fail(unreachable(request.url, error), record, ran=False)
        except Exception as error:  # noqa: BLE001  # it takes the wire down, and with it nobody else
            self._fail(Loss(f"took no message: {type(error).__name__}", cause=error), record, ran=handed_over)
        else:
            if response.is_error:
                status = response.status_code
                loss = refused(Failure(f"refused a message with HTTP status {status}", status=status))
                self._fail(loss, record, ran=status != HTTPStatus.NOT_FOUND)  # it does not know the session

    def _fail(self, loss: Loss, record: CallRecord | None, *, ran: bool) -> None:
        if record is not None and not ran:
            record.sent -= 1
        self.link.lose(loss)
