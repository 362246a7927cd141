"""A server over streamable HTTP, in both eras, as a transport for `mcp.Client`.

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
from mcp_types import JSONRPCNotification, JSONRPCRequest

from mcp_pool.config import HttpServer
from mcp_pool.errors import HttpStatus
from mcp_pool.transports.bodies import EVENT_STREAM, WatchedStream, content_type, holds, rebuilt
from mcp_pool.transports.exchange import Exchange, forwarded, unreachable, was_unreachable
from mcp_pool.transports.http_client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.link import CallRecord, Failure, Link, Loss
from mcp_pool.transports.notices import Notices
from mcp_pool.transports.taps import ReadTap, WriteTap

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
CHECK_TIMEOUT: Final = 5.0
"""Seconds for a server to say whether it knows a session, and to take the word that it is over."""
PING: Final = "mcp_pool-ping"
"""The id of the question whether a server knows a session. One that names it again has answered."""
ANSWER_LIMIT: Final = 65536
"""How much is read of what it says to that, in bytes."""
REJECTIONS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
"""What servers answer to a session that they do not know."""
NO_STREAM: Final = REJECTIONS | {HTTPStatus.METHOD_NOT_ALLOWED}
"""What they answer when they have no stream of messages of their own."""
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
    notices = Notices(server_id, link)
    url = str(httpx2.URL(spec.url).copy_with(userinfo=b""))  # the SDK logs it
    wire = _StreamableWire(link, spec.max_message_size, notices)
    async with (
        ServerHttpClient(spec.url, wire, headers=spec.headers, auth=spec.auth, lender=spec.http_client) as client,
        notices.posting(),  # within the client: it must not be closed while a notice is under way
        streamable_http_client(url, http_client=client, terminate_on_close=False, max_sse_event_size=None) as (
            read,
            write,
        ),
    ):
        try:
            yield ReadTap(read, link, hears=False), WriteTap(Outbox(write), link)
        finally:
            # Here and not by the SDK, which would not do it for a dial that was cancelled.
            with anyio.CancelScope(shield=True), anyio.move_on_after(min(close_timeout, CHECK_TIMEOUT)):
                await wire.end_session(client, url)


@final
@attrs.define(eq=False)
class _SessionCheck:
    """Asks a server by a ping whether it knows a session: one ping for all whose requests it refused before that."""

    notices: Notices
    _turn: anyio.Lock = attrs.field(factory=anyio.Lock, init=False, repr=False)
    """Held while a ping is under way."""
    _begun: int = attrs.field(default=0, init=False)
    """How many pings were sent."""
    _answered: int = attrs.field(default=0, init=False)
    """The number of the latest one whose answer is known."""
    _answer: bool | None = attrs.field(default=None, init=False)

    async def knows_session(self, request: httpx2.Request, forward: Forward) -> bool | None:
        """Tell whether the server knows the session of a request that it refused; None: it does not say."""
        before = self._begun
        async with self._turn:
            # An answer to a ping that was sent before the refusal may be older than what the refusal tells.
            if self._answer is not False and self._answered <= before:
                self._begun += 1
                self._answer = await self._ping(request, forward)
                self._answered = self._begun
            return self._answer

    async def _ping(self, request: httpx2.Request, forward: Forward) -> bool | None:
        headers = httpx2.Headers(request.headers)
        for of_the_body in ("content-length", "last-event-id"):
            headers.pop(of_the_body, None)
        headers["accept"] = f"application/json, {EVENT_STREAM}"
        ping = {"jsonrpc": "2.0", "id": PING, "method": "ping"}
        extensions = {"timeout": request.extensions.get("timeout", {})}
        again = httpx2.Request("POST", request.url, headers=headers, json=ping, extensions=extensions)
        try:
            with anyio.fail_after(CHECK_TIMEOUT):
                answer = await forwarded(again, forward)
                is_answered = await holds(answer, PING.encode(), ANSWER_LIMIT)
        except Exception as error:  # noqa: BLE001  # it does not say
            self.notices.tell(f"did not say whether it knows the session: {type(error).__name__}")
            return None
        if answer.status_code in REJECTIONS:
            return False
        return True if answer.is_success and is_answered else None


@final
@attrs.define(eq=False)
class _StreamableWire:
    """Sends each request for what it is for."""

    link: Link
    max_message_size: int
    notices: Notices
    _check: _SessionCheck = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: _SessionCheck(self.notices), takes_self=True)
    )
    _session: dict[str, str] = attrs.field(factory=dict[str, str], init=False, repr=False)
    """The headers of the session, once the server has begun one."""
    _stream_failures: int = attrs.field(default=0, init=False)

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. One that carries a message raises no error: a failure is answered by an error response."""
        outgoing = current_message.get()
        message, record = (None, None) if outgoing is None else (outgoing.message.message, outgoing.record)
        if request.method == "GET" and not isinstance(message, JSONRPCRequest):
            return await self._open_own_stream(request, forward)
        if request.method == "GET" and isinstance(message, JSONRPCRequest):
            return await self._resume(request, forward, message, record)
        if request.method != "POST" or message is None:
            return await forwarded(request, forward)
        if isinstance(message, JSONRPCRequest):
            return await self._ask(request, forward, message, record)
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            return await self.notices.post(request, forward)  # what follows must find the session ready
        return self.notices.post_behind(request, forward)

    async def end_session(self, client: httpx2.AsyncClient, url: str) -> None:
        """Tell the server that its session is over (MCP specification, Streamable HTTP, Session Management)."""
        loss = self.link.loss
        if not self._session or (loss is not None and loss.unreachable):
            return
        try:
            request = client.build_request("DELETE", url, headers=self._session)
            response = await client.send(request, stream=True, follow_redirects=False)
            await response.aclose()
        except Exception as error:  # noqa: BLE001  # the session expires by itself
            self.notices.tell(f"was not told that its session is over: {type(error).__name__}")

    async def _ask(
        self, request: httpx2.Request, forward: Forward, message: JSONRPCRequest, record: CallRecord | None
    ) -> httpx2.Response:
        exchange = Exchange(request, message, self.link, record, self.max_message_size)
        try:
            return await exchange.patience.wait(partial(self._ask_with, exchange, forward))
        except Exception as error:  # noqa: BLE001  # it stays with this request
            return exchange.broke(error)

    async def _ask_with(self, exchange: Exchange, forward: Forward) -> httpx2.Response:
        response = await exchange.sent(forward)
        try:
            is_lost = await self._has_lost_session(exchange.request, response.status_code, forward)
        except BaseException:
            await response.aclose()
            raise
        if not is_lost:
            self._note_session(exchange, response)
            return await exchange.look(response)
        await response.aclose()
        exchange.reject()
        self._lose_session(response.status_code)
        return exchange.fail(Failure("no longer knows the session"))

    async def _resume(
        self, request: httpx2.Request, forward: Forward, message: JSONRPCRequest, record: CallRecord | None
    ) -> httpx2.Response:
        """Ask for the rest of an answer whose stream of events has ended too early; the SDK may try again."""
        exchange = Exchange(request, message, self.link, record, self.max_message_size)
        failure = Failure("ended its stream of events without an answer, and did not resume it")
        try:
            response = await exchange.patience.wait(partial(exchange.sent, forward))
        except Exception as error:
            exchange.fail(attrs.evolve(failure, cause=error))
            raise
        if response.is_success and content_type(response) == EVENT_STREAM:
            return exchange.watched(response)
        exchange.fail(failure)
        return response

    def _note_session(self, exchange: Exchange, response: httpx2.Response) -> None:
        if exchange.asked.method == "initialize" and (session := response.headers.get(SESSION_HEADER)):
            self._session[SESSION_HEADER] = session
        if self._session and (version := exchange.request.headers.get(VERSION_HEADER)):
            self._session[VERSION_HEADER] = version

    async def _has_lost_session(self, request: httpx2.Request, status: int, forward: Forward) -> bool:
        """Tell whether a server refused a request for its session: then a ping is refused likewise.

        A gateway may answer 404 to a call of one tool, and a server without a stream of its own messages to whoever
        asks for one.
        """
        if SESSION_HEADER not in request.headers or status not in REJECTIONS:
            return False
        known = await self._check.knows_session(request, forward)
        if known is None:
            # By the specification, 404 to a message says so. Else what was said to the request stands.
            return status == HTTPStatus.NOT_FOUND and request.method == "POST"
        return not known

    def _lose_session(self, status: int) -> None:
        # Draining: calls that were rejected likewise are to learn it themselves, as they may be sent again.
        what, advice = "no longer knows the session", "It may have been restarted."
        cause = HttpStatus(f"It answered with HTTP status {status}.", status=status)
        self.link.lose(Loss(what, cause=cause, advice=advice, draining=True, unreachable=True))

    async def _open_own_stream(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Open the stream of what the server has to say of its own. The SDK tries again when that fails."""
        try:
            response = await forwarded(request, forward)
        except Exception as error:
            if was_unreachable(request.url, error):
                self.link.lose(unreachable(request.url, error))
            self._note_stream_end(error)
            raise
        if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.link.hear()
        if await self._has_lost_session(request, response.status_code, forward):
            self._lose_session(response.status_code)
        elif response.is_error and response.status_code not in NO_STREAM:
            words = f"Its stream of messages was refused with HTTP status {response.status_code}."
            self._note_stream_end(HttpStatus(words, status=response.status_code))
        elif response.is_success and content_type(response) == EVENT_STREAM:
            stream = WatchedStream(
                response, self.max_message_size, self._note_stream_end, lambda _message: self.link.hear()
            )
            return rebuilt(response, stream)
        else:
            self.notices.tell(f"has no stream of its own messages: it answered {response.status_code}")
        return response

    def _note_stream_end(self, error: Exception | None) -> None:
        self._stream_failures = 0 if error is None else self._stream_failures + 1
        if self._stream_failures >= STREAM_TRIES and error is not None:
            self.link.lose(Loss("could not keep up the stream of its own messages", cause=error, draining=True))
