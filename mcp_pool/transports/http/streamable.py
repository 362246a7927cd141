"""A server over streamable HTTP, on both protocols, as a transport for `mcp.Client`.

The SDK's transport implements the protocol. This module decides how each request is sent, how long it may take and what
its failure means (MCP specification, Transports, Streamable HTTP).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Final, final

import anyio
import attrs
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp_types import JSONRPCNotification, JSONRPCRequest

from mcp_pool.config.servers import HttpServer
from mcp_pool.transports.channel import CallRecord, Channel, Failure
from mcp_pool.transports.http.client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.http.exchange import Exchange
from mcp_pool.transports.http.notifications import Notifications
from mcp_pool.transports.http.redirects import redirected_request, send_within_origin
from mcp_pool.transports.http.responses import EVENT_STREAM, content_type
from mcp_pool.transports.http.server_stream import ServerStream
from mcp_pool.transports.http.session import Finding
from mcp_pool.transports.http.session_probe import SessionProbe
from mcp_pool.transports.http.status_errors import error_status
from mcp_pool.transports.http.stream_pace import StreamPace
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit
from mcp_pool.transports.tracked_streams import TrackedReadStream, TrackedWriteStream

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
SESSION_END_TIMEOUT: Final = 5.0
"""Seconds for a server to answer the DELETE that ends its session."""

_current_pace: Final[ContextVar[StreamPace]] = ContextVar("mcp_pool_current_pace")
"""The pace of the request that is being sent. The SDK sends and resumes a request in one task."""


@asynccontextmanager
async def streamable_transport(
    server_id: str, spec: HttpServer, channel: Channel, renewal_limit: SessionRenewalLimit, close_timeout: float
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Open the transport of one connection.

    Args:
        server_id: For the log.
        spec: The server to connect to.
        channel: Records what happens.
        renewal_limit: How often the server's session may be replaced on suspicion.
        close_timeout: Seconds to end the session.
    """
    notifications = Notifications(server_id, channel)
    url = str(httpx2.URL(spec.url).copy_with(userinfo=b""))  # the SDK logs it
    probe = SessionProbe(channel, renewal_limit, notifications.start, notifications.note)
    has_auth = spec.auth is not None or (spec.http_client is not None and spec.http_client.auth is not None)
    server_stream = ServerStream(channel, spec.max_message_size, notifications.note)
    wire = _StreamableWire(channel, spec.max_message_size, notifications, probe, server_stream, has_auth)
    async with (
        ServerHttpClient(
            spec.url, wire, headers=spec.headers, auth=spec.auth, borrowed_client=spec.http_client
        ) as client,
        notifications.posting(),  # within the client, which must not be closed while a notification is being posted
        streamable_http_client(url, http_client=client, terminate_on_close=False, max_sse_event_size=None) as (
            read,
            write,
        ),
    ):
        try:
            yield TrackedReadStream(read, channel, notes_activity=False), TrackedWriteStream(Outbox(write), channel)
        finally:
            # The SDK would not end the session of a connection attempt that was cancelled.
            with anyio.CancelScope(shield=True), anyio.move_on_after(min(close_timeout, SESSION_END_TIMEOUT)):
                await wire.end_session(client, url)


@final
@attrs.define(eq=False)
class _StreamableWire:
    """Sends each request according to its purpose."""

    channel: Channel
    max_message_size: int
    notifications: Notifications
    probe: SessionProbe
    server_stream: ServerStream
    has_auth: bool
    _session: dict[str, str] = attrs.field(factory=dict[str, str], init=False, repr=False)
    """The headers of the session, once the server has started one."""

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. A POST with a message never raises: if it fails, an error response is returned."""
        outgoing = current_message.get()
        message, record = (None, None) if outgoing is None else (outgoing.message.message, outgoing.record)
        if request.method == "GET" and not isinstance(message, JSONRPCRequest):
            return await self.server_stream.open(request, forward)
        if request.method == "GET" and isinstance(message, JSONRPCRequest):
            return await self._resume(request, forward, message, record)
        if request.method != "POST" or message is None:
            return await send_within_origin(request, forward)
        if isinstance(message, JSONRPCRequest):
            return await self._send_request(request, forward, message, record)
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            return await self.notifications.post(request, forward)  # the session must be ready for what follows
        return self.notifications.post_in_background(request, forward)

    async def end_session(self, client: httpx2.AsyncClient, url: str) -> None:
        """End the session on the server (MCP specification, Streamable HTTP, Session Management)."""
        loss = self.channel.disconnect_cause
        if not self._session or (loss is not None and loss.unreachable):
            return
        try:
            request = client.build_request("DELETE", url, headers=self._session)
            response = await client.send(request, stream=True, follow_redirects=False)
            await response.aclose()
            if response.next_request is not None:
                self.notifications.note(
                    f"was not told that its session has ended: it {error_status(response, self.channel).what}"
                )
        except Exception as error:  # noqa: BLE001  # the session expires by itself
            self.notifications.note(f"could not be told that its session has ended ({type(error).__name__})")

    async def _send_request(
        self, request: httpx2.Request, forward: Forward, message: JSONRPCRequest, record: CallRecord | None
    ) -> httpx2.Response:
        exchange = Exchange(request, message, self.channel, record, self.max_message_size, self.has_auth)
        _current_pace.set(exchange.pace)
        try:
            return await exchange.wait.run(partial(self._exchange, exchange, forward))
        except Exception as error:  # noqa: BLE001  # it fails this request only
            return exchange.transport_failed(error)

    async def _exchange(self, exchange: Exchange, forward: Forward) -> httpx2.Response:
        if SESSION_HEADER in exchange.request.headers:
            # An answer is delivered at once, without waiting for a ping.
            exchange.on_answer = partial(self.probe.note_answer, exchange.request, forward, exchange.message.method)
        response = await exchange.send(forward)
        self._note_session(exchange, response)
        if response.is_success or response.next_request is not None:
            return await exchange.success_response(response)
        body = await exchange.read_answer(response)
        if body.answer is not None or SESSION_HEADER not in exchange.request.headers:
            return exchange.error_response(response, body)
        method, status = exchange.message.method, response.status_code
        finding = self.probe.note_rejection(exchange.request, forward, method, status, body)
        if finding is Finding.LOST:
            return exchange.lose_session()
        seen = exchange.error_response(response, body)
        if finding is Finding.SUSPECT:
            await self.probe.settled()
        return seen

    async def _resume(
        self, request: httpx2.Request, forward: Forward, message: JSONRPCRequest, record: CallRecord | None
    ) -> httpx2.Response:
        """Resume an event stream that ended before the answer. If this fails, the SDK may try again, without waiting.

        The wait is here, and not in the SDK, because it must end with the call.
        """
        pace = _current_pace.get(None) or StreamPace()
        exchange = Exchange(request, message, self.channel, record, self.max_message_size, pace=pace)
        failure = Failure("ended its event stream without an answer and did not resume it")
        try:
            response = await exchange.wait.run(partial(exchange.resume, forward))
        except Exception as error:
            pace.note_end()
            exchange.fail(attrs.evolve(failure, cause=error))
            raise
        if response.is_success and content_type(response) == EVENT_STREAM:
            return exchange.event_stream_response(response)
        if redirected_request(request, response) is None:
            pace.note_end()
        exchange.fail(failure)  # cleared if the SDK follows a redirect
        return response

    def _note_session(self, exchange: Exchange, response: httpx2.Response) -> None:
        if exchange.message.method == "initialize" and (session := response.headers.get(SESSION_HEADER)):
            self._session[SESSION_HEADER] = session
        if self._session and (version := exchange.request.headers.get(VERSION_HEADER)):
            self._session[VERSION_HEADER] = version
