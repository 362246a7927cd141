"""A server over streamable HTTP, in both protocols, as a transport for `mcp.Client`.

The SDK's transport does the protocol; what each request is for, how long it may take and what its failure means is
decided here (MCP specification, Transports, Streamable HTTP).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Final, final

import anyio
import attrs
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcp_pool.config.servers import HttpServer
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure
from mcp_pool.transports.http.client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.http.exchange import Exchange, forward_request, unreachable, was_unreachable
from mcp_pool.transports.http.notifications import Notifications
from mcp_pool.transports.http.responses import EVENT_STREAM, WatchedStream, content_type, rebuilt
from mcp_pool.transports.http.session import PING_METHOD, Finding, Rejection, SessionEvidence
from mcp_pool.transports.http.session_probe import SessionProbe
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit
from mcp_pool.transports.tracked_streams import TrackedReadStream, TrackedWriteStream

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
SESSION_END_TIMEOUT: Final = 5.0
"""Seconds for a server to take the word that its session is over."""
MAX_STREAM_FAILURES: Final = 2
"""Failures in a row after which the stream of the server's own messages is given up: so does the SDK."""


@asynccontextmanager
async def streamable_transport(
    server_id: str, spec: HttpServer, channel: Channel, renewal_limit: SessionRenewalLimit, close_timeout: float
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Make the transport of one connection.

    Args:
        server_id: For the log.
        spec: What to connect to.
        channel: Learns what happens on the wire.
        renewal_limit: When the server's session was last given up on mere evidence.
        close_timeout: Seconds for the session to be ended.
    """
    notifications = Notifications(server_id, channel)
    url = str(httpx2.URL(spec.url).copy_with(userinfo=b""))  # the SDK logs it
    probe = SessionProbe(channel, renewal_limit, notifications.start, forward_request, notifications.note)
    wire = _StreamableWire(channel, spec.max_message_size, notifications, probe)
    async with (
        ServerHttpClient(
            spec.url, wire, headers=spec.headers, auth=spec.auth, borrowed_client=spec.http_client
        ) as client,
        notifications.posting(),  # within the client: it must not be closed while a notice is under way
        streamable_http_client(url, http_client=client, terminate_on_close=False, max_sse_event_size=None) as (
            read,
            write,
        ),
    ):
        try:
            yield TrackedReadStream(read, channel, notes_activity=False), TrackedWriteStream(Outbox(write), channel)
        finally:
            # Here and not by the SDK, which would not do it for an attempt that was cancelled.
            with anyio.CancelScope(shield=True), anyio.move_on_after(min(close_timeout, SESSION_END_TIMEOUT)):
                await wire.end_session(client, url)


@final
@attrs.define(eq=False)
class _StreamableWire:
    """Sends each request for what it is for."""

    channel: Channel
    max_message_size: int
    notifications: Notifications
    probe: SessionProbe
    _evidence: SessionEvidence = attrs.field(factory=SessionEvidence, init=False, repr=False)
    _session: dict[str, str] = attrs.field(factory=dict[str, str], init=False, repr=False)
    """The headers of the session, once the server has begun one."""
    _stream_failures: int = attrs.field(default=0, init=False)

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. One that carries a message raises no error: a failure is answered by an error response."""
        outgoing = current_message.get()
        message, record = (None, None) if outgoing is None else (outgoing.message.message, outgoing.record)
        if request.method == "GET" and not isinstance(message, JSONRPCRequest):
            return await self._open_server_stream(request, forward)
        if request.method == "GET" and isinstance(message, JSONRPCRequest):
            return await self._resume(request, forward, message, record)
        if request.method != "POST" or message is None:
            return await forward_request(request, forward)
        if isinstance(message, JSONRPCRequest):
            return await self._send_request(request, forward, message, record)
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            return await self.notifications.post(request, forward)  # what follows must find the session ready
        return self.notifications.post_in_background(request, forward)

    async def end_session(self, client: httpx2.AsyncClient, url: str) -> None:
        """Tell the server that its session is over (MCP specification, Streamable HTTP, Session Management)."""
        loss = self.channel.disconnect_cause
        if not self._session or (loss is not None and loss.unreachable):
            return
        try:
            request = client.build_request("DELETE", url, headers=self._session)
            response = await client.send(request, stream=True, follow_redirects=False)
            await response.aclose()
        except Exception as error:  # noqa: BLE001  # the session expires by itself
            self.notifications.note(f"could not be told that its session has ended: {type(error).__name__}")

    async def _send_request(
        self, request: httpx2.Request, forward: Forward, message: JSONRPCRequest, record: CallRecord | None
    ) -> httpx2.Response:
        exchange = Exchange(request, message, self.channel, record, self.max_message_size)
        try:
            return await exchange.wait.run(partial(self._exchange, exchange, forward))
        except Exception as error:  # noqa: BLE001  # it stays with this request
            return exchange.transport_failed(error)

    async def _exchange(self, exchange: Exchange, forward: Forward) -> httpx2.Response:
        if SESSION_HEADER in exchange.request.headers:
            exchange.on_answer = partial(self._note_answer, exchange, forward)
        response = await exchange.send(forward)
        self._note_session(exchange, response)
        if response.is_success or response.next_request is not None:
            return await exchange.success_response(response)
        body = await exchange.read_answer(response)
        if body.answer is not None or SESSION_HEADER not in exchange.request.headers:
            return exchange.error_response(response, body)
        rejection = Rejection.of(response.status_code, body.error)
        is_ping = exchange.message.method == PING_METHOD
        finding = self._evidence.note_rejection(rejection, is_ping=is_ping, is_certain=body.is_certain)
        if finding is Finding.LOST:
            return exchange.lose_session()
        seen = exchange.error_response(response, body)
        if finding is Finding.SUSPECT:
            self.probe.suspect(rejection, exchange.request, forward)
            await self.probe.settled()
        return seen

    def _note_answer(
        self, exchange: Exchange, forward: Forward, status: int, answer: JSONRPCResponse | JSONRPCError
    ) -> None:
        """Note an answer to a request of a session. It is delivered at once, whatever a ping will tell."""
        error = Rejection.of(status, answer) if isinstance(answer, JSONRPCError) else None
        finding = self._evidence.note_answer(error, is_ping=exchange.message.method == PING_METHOD)
        if error is not None and finding is Finding.SUSPECT:
            self.probe.suspect(error, exchange.request, forward)

    async def _resume(
        self, request: httpx2.Request, forward: Forward, message: JSONRPCRequest, record: CallRecord | None
    ) -> httpx2.Response:
        """Ask for the rest of an answer whose stream of events has ended too early; the SDK may try again."""
        exchange = Exchange(request, message, self.channel, record, self.max_message_size)
        failure = Failure("ended its event stream without an answer and did not resume it")
        try:
            response = await exchange.wait.run(partial(exchange.send, forward))
        except Exception as error:
            exchange.fail(attrs.evolve(failure, cause=error))
            raise
        if response.is_success and content_type(response) == EVENT_STREAM:
            return exchange.event_stream_response(response)
        exchange.fail(failure)
        return response

    def _note_session(self, exchange: Exchange, response: httpx2.Response) -> None:
        if exchange.message.method == "initialize" and (session := response.headers.get(SESSION_HEADER)):
            self._session[SESSION_HEADER] = session
        if self._session and (version := exchange.request.headers.get(VERSION_HEADER)):
            self._session[VERSION_HEADER] = version

    async def _open_server_stream(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Open the stream of what the server has to say of its own. The SDK tries again when that fails."""
        try:
            response = await forward_request(request, forward)
        except Exception as error:
            if was_unreachable(request.url, error):
                self.channel.mark_lost(unreachable(request.url, error))
            self._note_stream_end(error)
            raise
        if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        if response.is_success and content_type(response) == EVENT_STREAM:
            stream = WatchedStream(
                response, self.max_message_size, self._note_stream_end, lambda _message: self.channel.note_activity()
            )
            return rebuilt(response, stream)
        # Whatever the status: a gateway may let no GET through, while all that is posted goes well.
        self.notifications.note(f"offers no stream of its own messages: it answered {response.status_code}")
        return response

    def _note_stream_end(self, error: Exception | None) -> None:
        self._stream_failures = 0 if error is None else self._stream_failures + 1
        if self._stream_failures >= MAX_STREAM_FAILURES and error is not None:
            self.channel.mark_lost(
                DisconnectCause("repeatedly broke off the stream of its own messages", cause=error, draining=True)
            )
