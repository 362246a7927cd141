"""A server over the older HTTP with SSE, as a transport for `mcp.Client`.

All messages from the server arrive on one event stream, and each message to it is a POST (MCP specification 2024-11-05,
Transports, HTTP with SSE). The connection is lost when the stream ends or a POST gets no response: the SDK would fail
every later call with "Connection closed". A POST that is rejected, or that fails in user code before it is sent, fails
its own request only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final, final

import anyio
import attrs
import httpx2
from anyio.abc import TaskGroup
from mcp.client.sse import sse_client
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, RequestId

from mcp_pool._shared.log import log
from mcp_pool._shared.log_throttle import LogThrottle
from mcp_pool.config.servers import SseServer
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure
from mcp_pool.transports.http.answers import ParsedBody, read_answer
from mcp_pool.transports.http.client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.http.connecting import unreachable, was_unreachable
from mcp_pool.transports.http.endpoint import Endpoint
from mcp_pool.transports.http.exchange import SendTrace
from mcp_pool.transports.http.headers import HeadersFailed, explained
from mcp_pool.transports.http.inbox import Inbox
from mcp_pool.transports.http.post_rejections import PostRejections, RejectedPost
from mcp_pool.transports.http.redirects import send_within_origin
from mcp_pool.transports.http.responses import read_whole
from mcp_pool.transports.http.session_probe import SessionProbe
from mcp_pool.transports.http.sse_stream import MAX_EVENT_SIZE, SseStream
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream

POST_TIMEOUT: Final = 30.0
"""Seconds for a server to accept a POST that no caller waits for. A request whose caller waits has no such timeout,
because some servers accept a request only when they have answered it."""
CANCEL_WAIT: Final = 2.0
"""Seconds that a cancel notification waits for its request to be accepted. A server that accepts requests only when it
has answered them received this one long before."""
MAX_POSTS: Final = 1000
"""Maximum number of POSTs in flight. A server that is so far behind has stopped accepting messages."""
RESPONSE_TIMEOUT: Final = 1.0
"""Seconds to read the body of a successful response. It is ignored, but a connection with an unread body could not be
used again."""
MAX_RESPONSE_SIZE: Final = 65536
"""The longest such body that is read, in bytes."""


@asynccontextmanager
async def sse_transport(
    server_id: str, spec: SseServer, channel: Channel, renewal_limit: SessionRenewalLimit
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Open the transport of one connection.

    Args:
        server_id: For the log.
        spec: The server to connect to.
        channel: Records what happens.
        renewal_limit: How often the server's session may be replaced on suspicion.
    """
    # Without user and password: the SDK requires the URL for POSTs to have exactly the same origin.
    url = str(httpx2.URL(spec.url).copy_with(userinfo=b""))
    event_limit = min(spec.max_message_size, MAX_EVENT_SIZE)
    wire = _SseWire(server_id, channel, SseStream(server_id, channel, event_limit, Endpoint(url, channel)))
    async with anyio.create_task_group() as wire.background:

        def make_client(
            headers: dict[str, str] | None = None,  # noqa: ARG001  # the SDK's settings, which the spec's replace
            timeout: httpx2.Timeout | None = None,  # noqa: ARG001  # likewise
            auth: httpx2.Auth | None = None,  # noqa: ARG001  # likewise
        ) -> httpx2.AsyncClient:
            return ServerHttpClient(
                spec.url, wire, headers=spec.headers, auth=spec.auth, borrowed_client=spec.http_client
            )

        async with sse_client(url, httpx_client_factory=make_client) as (read, write):
            inbox = Inbox(read, channel, wire.note_answer)
            probe = SessionProbe(channel, renewal_limit, wire.background.start_soon, wire.note)
            wire.rejections, wire.stream.deliver = PostRejections(channel, inbox, probe), inbox.deliver
            try:
                yield (
                    TrackedReadStream(inbox, channel, notes_activity=False),
                    TrackedWriteStream(Outbox(write), channel),
                )
            finally:
                wire.background.cancel_scope.cancel()
                wire.not_accepted.flush(server_id)


@final
@attrs.define(eq=False)
class _Post:
    """A message that is being posted."""

    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False, repr=False)
    """Cancels the POST."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the POST has ended, with or without success."""
    trace: SendTrace = attrs.field(factory=SendTrace, init=False)
    """Whether the server may have received the message."""
    is_answered: bool = attrs.field(default=False, init=False)
    """Whether the request was answered on the event stream; the response to the POST is then ignored."""

    def expire(self) -> None:
        """Give the POST `POST_TIMEOUT` from now: no caller waits for it any more."""
        self.scope.deadline = min(self.scope.deadline, anyio.current_time() + POST_TIMEOUT)


@final
@attrs.define(eq=False)
class _SseWire:
    """Opens the event stream, and posts each message in its own task. The SDK would post one message at a time."""

    server_id: str
    """For the log."""
    channel: Channel
    """The channel of the connection."""
    stream: SseStream
    """The event stream."""
    background: TaskGroup = attrs.field(init=False)
    """The tasks that post."""
    rejections: PostRejections = attrs.field(init=False)
    """Handles rejected POSTs."""
    not_accepted: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: messages not accepted in time: {}"), init=False, repr=False
    )
    """Logs messages that the server did not accept in time."""
    _posting: int = attrs.field(default=0, init=False)
    _posts: dict[RequestId, _Post] = attrs.field(factory=dict[RequestId, _Post], init=False, repr=False)
    """The requests that are being posted, by id."""

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. A POST never raises: if it fails once it is sent, the connection is lost."""
        outgoing = current_message.get()
        if outgoing is None:
            return await self.stream.open(request, forward)
        message, post = outgoing.message.message, _Post()
        if not isinstance(message, JSONRPCRequest):
            post.expire()
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            await self._post(request, forward, outgoing, post)  # the server must be ready for what follows
        elif outgoing.record is not None and outgoing.record.done:
            pass  # the call has ended: sent now, the request would never be cancelled
        elif self._posting < MAX_POSTS:
            self._posting += 1
            if isinstance(message, JSONRPCRequest):
                self._posts[coerce_request_id(message.id)] = post
            if outgoing.record is not None:
                outgoing.record.on_done = post.expire  # the cancel notification may not arrive
            self.background.start_soon(self._post_in_turn, request, forward, outgoing, post)
        else:
            self._fail(DisconnectCause(f"has not accepted the last {MAX_POSTS} messages"), outgoing.record, post)
        return httpx2.Response(202, request=request)

    def note_answer(self, request_id: RequestId | None) -> None:
        """Record that a request was answered on the event stream."""
        if request_id is not None and (post := self._posts.get(coerce_request_id(request_id))) is not None:
            post.is_answered = True
            post.expire()

    def note(self, what: str) -> None:
        """Log a harmless problem, as a phrase that follows the server's name."""
        log("DEBUG", self.server_id, "Server {!r} {}", self.server_id, what)

    async def _post_in_turn(self, request: httpx2.Request, forward: Forward, outgoing: Outgoing, post: _Post) -> None:
        message = outgoing.message.message
        try:
            if cancelled := self._posts.get(_cancelled_id(message)):
                cancelled.expire()
                with anyio.move_on_after(CANCEL_WAIT):
                    await cancelled.ended.wait()  # the server must know the request that is cancelled
                if not cancelled.trace.is_sent:
                    cancelled.scope.cancel()  # otherwise it would arrive after its own cancel notification
            await self._post(request, forward, outgoing, post)
        finally:
            self._posting -= 1
            post.ended.set()
            if isinstance(message, JSONRPCRequest):
                del self._posts[coerce_request_id(message.id)]

    async def _post(self, request: httpx2.Request, forward: Forward, outgoing: Outgoing, post: _Post) -> None:
        post.trace.attach(request)
        message, response, body = outgoing.message.message, None, ParsedBody()
        try:
            with post.scope:
                response = await send_within_origin(request, forward)
                if not response.is_success:
                    body = await read_answer(response, self.stream.event_limit, _request_id(message))
        except Exception as error:  # noqa: BLE001  # it ends this request or this connection, and nothing else
            if isinstance(error, HeadersFailed):
                post.trace.is_sent = False  # at most, the server received it before and redirected it
            self._post_failed(error, request, outgoing, post)
        if post.scope.cancelled_caught:
            if not isinstance(message, JSONRPCRequest):
                self.not_accepted.count(self.server_id)
        elif response is not None and response.is_success:
            with suppress(Exception), anyio.move_on_after(RESPONSE_TIMEOUT):
                await read_whole(response, MAX_RESPONSE_SIZE)
        elif response is not None and not post.is_answered:
            self.rejections.note(RejectedPost(request, forward, response, body), message, outgoing.record)

    def _post_failed(self, error: Exception, request: httpx2.Request, outgoing: Outgoing, post: _Post) -> None:
        """Handle an exception from a POST. One from user code, before it was sent, says nothing about the server."""
        message, record, (why, cause) = outgoing.message.message, outgoing.record, explained(error)
        loss = DisconnectCause(f"could not be sent a message ({why})", cause=cause)
        if was_unreachable(request.url, error):
            # Not draining: the call whose request was not sent cannot be answered.
            self._fail(attrs.evolve(unreachable(request.url, error, post.trace.peer), draining=False), record, post)
        elif post.trace.is_sent or not self.channel.is_settled:
            self._fail(loss, record, post)
        elif isinstance(message, JSONRPCRequest):
            self._mark_not_run(record)
            self.rejections.fail(message, record, Failure(f"could not be sent the request ({why})", cause=cause))
        else:
            self.note(loss.what)

    def _fail(self, loss: DisconnectCause, record: CallRecord | None, post: _Post) -> None:
        if not post.trace.is_sent:
            self._mark_not_run(record)
        self.channel.mark_lost(loss)

    def _mark_not_run(self, record: CallRecord | None) -> None:
        """Record that the server certainly did not run the request."""
        if record is not None:
            record.requests_sent -= 1


def _request_id(message: JSONRPCMessage) -> RequestId:
    """Return the id of a request; for other messages, an id that no request has."""
    return message.id if isinstance(message, JSONRPCRequest) else ""


def _cancelled_id(message: JSONRPCMessage) -> RequestId:
    """Return the id of the request that a message cancels; for other messages, an id that no request has."""
    if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
        return coerce_request_id((message.params or {}).get("requestId", ""))
    return ""
