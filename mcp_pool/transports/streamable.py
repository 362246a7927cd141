"""A server over streamable HTTP, in both eras, as a transport for `mcp.Client`.

The SDK's transport does the protocol; what each request is for, how long it may take and what its failure means is
decided here (MCP specification, Transports, Streamable HTTP).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, final

import anyio
import attrs
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp_types import JSONRPCNotification, JSONRPCRequest

from mcp_pool.config import HttpServer
from mcp_pool.transports.bodies import watch
from mcp_pool.transports.exchange import Exchange, unreachable
from mcp_pool.transports.http_client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.link import Failure, Link, Loss, Outgoing, ReadTap, WriteTap
from mcp_pool.transports.notices import Notices

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
CHECK_TIMEOUT: Final = 5.0
"""Seconds for a server to say whether it knows a session, and to take the word that it is over."""
REJECTIONS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
"""What servers answer to a session that they do not know."""
STREAM_TRIES: Final = 2
"""Failures in a row after which the stream of the server's own messages is given up: so does the SDK."""


@asynccontextmanager
async def streamable_transport(
    server_id: str, spec: HttpServer, link: Link, close_timeout: float
) -> AsyncGenerator[tuple[ReadTap, WriteTap]]:
    """Make the transport of one connection.

    Args:
        server_id: For the log.
        spec: What to connect to.
        link: Learns what happens on the wire.
        close_timeout: Seconds for the session to be ended.
    """
    async with anyio.create_task_group() as background:
        wire = _StreamableWire(link, spec.max_message_size, Notices(server_id, background, link))
        client = ServerHttpClient(spec.url, wire, headers=spec.headers, auth=spec.auth, lender=spec.http_client)
        async with (
            client,
            streamable_http_client(
                spec.url, http_client=client, terminate_on_close=False, max_sse_event_size=spec.max_message_size
            ) as (read, write),
        ):
            try:
                yield ReadTap(read, link), WriteTap(Outbox(write), link)
            finally:
                # Here and not by the SDK, which would not do it for a dial that was cancelled.
                with anyio.CancelScope(shield=True), anyio.move_on_after(min(close_timeout, CHECK_TIMEOUT)):
                    await wire.end_session(client, spec.url)
        background.cancel_scope.cancel()


@final
@attrs.define(eq=False)
class _StreamableWire:
    """Sends each request for what it is for."""

    link: Link
    max_message_size: int
    notices: Notices
    _session: dict[str, str] = attrs.field(factory=dict[str, str], init=False, repr=False)
    """The headers of the session, once the server has begun one."""
    _stream_failures: int = attrs.field(default=0, init=False)

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. One that carries a message raises no error: a failure is answered by an error response."""
        outgoing = current_message.get()
        if request.method == "GET":
            return await self._open_stream(request, forward, outgoing)
        if request.method != "POST" or outgoing is None:
            return await forward(request)
        message = outgoing[0].message
        if isinstance(message, JSONRPCRequest):
            return await self._ask(request, forward, outgoing)
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            return await self.notices.post(request, forward)  # what follows must find the session ready
        return self.notices.post_behind(request, forward)

    async def end_session(self, client: httpx2.AsyncClient, url: str) -> None:
        """Tell the server that its session is over (MCP specification, Streamable HTTP, Session Management)."""
        loss = self.link.loss
        if not self._session or (loss is not None and loss.unreachable):
            return
        try:
            await client.delete(url, headers=self._session)
        except Exception as error:  # noqa: BLE001  # the session expires by itself
            self.notices.tell(f"its session could not be ended: {type(error).__name__}")

    async def _ask(self, request: httpx2.Request, forward: Forward, outgoing: Outgoing) -> httpx2.Response:
        exchange = Exchange(request, self.link, outgoing[1], self.max_message_size)
        request.extensions = {**request.extensions, "trace": exchange.trace}
        if exchange.record is not None:
            exchange.record.failure = None
        try:
            response = await forward(request)
            if await self._has_lost_session(request, response.status_code, forward):
                exchange.reject()
                self._lose_session()
            else:
                self._note_session(request, response)
            return await exchange.look(response)
        except Exception as error:  # noqa: BLE001  # it stays with this request
            return exchange.broke(error)

    def _note_session(self, request: httpx2.Request, response: httpx2.Response) -> None:
        if session := response.headers.get(SESSION_HEADER):
            self._session[SESSION_HEADER] = session
        if self._session and (version := request.headers.get(VERSION_HEADER)):
            self._session[VERSION_HEADER] = version

    async def _has_lost_session(self, request: httpx2.Request, status: int, forward: Forward) -> bool:
        """Tell whether a server refused a request for its session: by 404, or by a 400 that a ping meets as well."""
        if SESSION_HEADER not in request.headers or status not in REJECTIONS:
            return False
        if status == HTTPStatus.NOT_FOUND:
            return True
        headers = httpx2.Headers(request.headers)
        headers.pop("content-length", None)
        ping = {"jsonrpc": "2.0", "id": "mcp_pool-ping", "method": "ping"}
        again = httpx2.Request("POST", request.url, headers=headers, json=ping, extensions=request.extensions)
        with anyio.move_on_after(CHECK_TIMEOUT):
            answer = await forward(again)
            await answer.aclose()
            return answer.status_code in REJECTIONS
        return False

    def _lose_session(self) -> None:
        # Draining: calls that were rejected likewise are to learn it themselves, as they may be sent again.
        self.link.lose(Loss("no longer knows the session", advice="It may have been restarted.", draining=True))

    async def _open_stream(
        self, request: httpx2.Request, forward: Forward, outgoing: Outgoing | None
    ) -> httpx2.Response:
        """Open a stream of events: the rest of an answer, or of what the server has to say of its own."""
        if outgoing is None or not isinstance(outgoing[0].message, JSONRPCRequest):
            return await self._open_own_stream(request, forward)
        exchange = Exchange(request, self.link, outgoing[1], self.max_message_size)
        try:
            response = await forward(request)
        except Exception as error:
            exchange.fail(Failure("could not be asked for the rest of its answer", cause=error))
            raise
        if response.is_success and exchange.record is not None:
            exchange.record.failure = None
        return exchange.watched(response) if response.is_success else response

    async def _open_own_stream(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        try:
            response = await forward(request)
        except Exception as error:
            if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                self.link.lose(unreachable(request.url, error))
            self._note_stream_end(error)
            raise
        if response.status_code == HTTPStatus.NOT_FOUND and SESSION_HEADER in request.headers:
            self._lose_session()
        elif response.is_error and response.status_code != HTTPStatus.METHOD_NOT_ALLOWED:  # it has no such stream
            self._note_stream_end(httpx2.HTTPStatusError("refused", request=request, response=response))
        return watch(response, self.max_message_size, self._note_stream_end)

    def _note_stream_end(self, error: Exception | None) -> None:
        self._stream_failures = 0 if error is None else self._stream_failures + 1
        if self._stream_failures >= STREAM_TRIES:
            self.link.lose(Loss("could not keep up the stream of its own messages", cause=error, draining=True))
