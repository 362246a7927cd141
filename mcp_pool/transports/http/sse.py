"""A server over the older HTTP with SSE, as a transport for `mcp.Client`.

One stream of events brings all messages of the server, and each message of ours is posted (MCP specification
2024-11-05, Transports, HTTP with SSE). The wire is down when the stream has ended or a post has broken off: the SDK
would answer every later call "Connection closed" without an end. A post that is refused fails its own request only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, final

import anyio
import attrs
import httpx2
from anyio.abc import TaskGroup
from mcp.client.sse import sse_client
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, RequestId

from mcp_pool._shared.log import log
from mcp_pool._shared.log_throttle import LogThrottle
from mcp_pool._shared.redaction import origin
from mcp_pool.config.servers import SseServer
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure
from mcp_pool.transports.http.answers import Said, hear_out
from mcp_pool.transports.http.client import Forward, Outbox, ServerHttpClient, current_message
from mcp_pool.transports.http.exchange import scrubbed, unreachable, was_unreachable
from mcp_pool.transports.http.handshake_errors import refused
from mcp_pool.transports.http.inbox import Inbox
from mcp_pool.transports.http.post_refusals import PostRefusals, RefusedPost
from mcp_pool.transports.http.redirects import sent_within_origin
from mcp_pool.transports.http.responses import EVENT_STREAM, TooLong, content_type, read_whole, watch
from mcp_pool.transports.http.session_probe import SessionProbe
from mcp_pool.transports.renewals import Renewals
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream

POST_TIMEOUT: Final = 30.0
"""Seconds for a server to take a message when nobody waits for what it says. A request has no such time while somebody
does, because there are servers that take one only when they have answered it."""
CANCEL_PATIENCE: Final = 2.0
"""Seconds for which the word that a request is cancelled waits until the server has taken the request. One that takes
it only when it has answered it has had it long before."""
POST_LIMIT: Final = 1000
"""Posts under way at once; a server that is so far behind takes no more."""
WORDS_TIMEOUT: Final = 1.0
"""Seconds for what a server has to say on top of having taken a message; nobody reads it, but unread it costs a
connection."""
WORDS_LIMIT: Final = 65536
"""How much of it is taken, in bytes."""
EVENT_LIMIT: Final = 2**20
"""The longest event in bytes that the SDK takes; one that is longer would break it."""


@asynccontextmanager
async def sse_transport(
    server_id: str, spec: SseServer, channel: Channel, renewals: Renewals
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Make the transport of one connection.

    Args:
        server_id: For the log.
        spec: What to connect to.
        channel: Learns what happens on the wire.
        renewals: When the server's session was last given up on mere evidence.
    """
    wire = _SseWire(server_id, channel, min(spec.max_message_size, EVENT_LIMIT))
    async with anyio.create_task_group() as wire.background:

        def make_client(
            headers: dict[str, str] | None = None,  # noqa: ARG001  # the SDK's own settings, which ours replace
            timeout: httpx2.Timeout | None = None,  # noqa: ARG001  # likewise
            auth: httpx2.Auth | None = None,  # noqa: ARG001  # likewise
        ) -> httpx2.AsyncClient:
            return ServerHttpClient(
                spec.url, wire, headers=spec.headers, auth=spec.auth, borrowed_client=spec.http_client
            )

        # Without user and password: the SDK wants messages to be posted to the very same origin.
        url = str(httpx2.URL(spec.url).copy_with(userinfo=b""))
        async with sse_client(url, httpx_client_factory=make_client) as (read, write):
            inbox = Inbox(read, channel, wire.note_answer)
            probe = SessionProbe(channel, renewals, wire.start, sent_within_origin, wire.tell)
            wire.refusals = PostRefusals(channel, inbox, probe)
            try:
                yield TrackedReadStream(inbox, channel, hears=False), TrackedWriteStream(Outbox(write), channel)
            finally:
                wire.background.cancel_scope.cancel()
                wire.untaken.flush(server_id)


@final
@attrs.define(eq=False)
class _Post:
    """A message that is being posted."""

    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False, repr=False)
    """Ends the posting."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the server has taken the message, or never will."""
    handed_over: bool = attrs.field(default=False, init=False)
    """Whether the server may have begun to get it."""
    is_answered: bool = attrs.field(default=False, init=False)
    """Whether the server has answered it on its stream: what it responds to the post means nothing then."""

    def expire(self) -> None:
        """Note that nobody waits for what the server says to it: from now on it has only so much time to take it."""
        self.scope.deadline = min(self.scope.deadline, anyio.current_time() + POST_TIMEOUT)


@final
@attrs.define(eq=False)
class _SseWire:
    """Opens the stream, and posts each message in a task of its own: the SDK would post all behind the slowest."""

    server_id: str
    """For the log."""
    channel: Channel
    """The wire."""
    event_limit: int
    """The longest event in bytes that the server may send."""
    background: TaskGroup = attrs.field(init=False)
    """Where messages are posted."""
    refusals: PostRefusals = attrs.field(init=False)
    """Decides what a refused post ends."""
    untaken: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r} did not accept {} messages in time"), init=False, repr=False
    )
    """Tells of messages that the server did not take."""
    _under_way: int = attrs.field(default=0, init=False)
    _posts: dict[RequestId, _Post] = attrs.field(factory=dict[RequestId, _Post], init=False, repr=False)
    """The requests that are being posted."""

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request. One that carries a message raises no error: what breaks off takes the wire down."""
        outgoing = current_message.get()
        if outgoing is None:
            return await self._open(request, forward)
        message, post = outgoing.message.message, _Post()
        if not isinstance(message, JSONRPCRequest):
            post.expire()
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/initialized":
            await self._post(request, forward, outgoing, post)  # what follows must find the server ready
        elif outgoing.record is not None and outgoing.record.done:
            pass  # its caller has gone, and nobody would cancel it
        elif self._under_way < POST_LIMIT:
            self._under_way += 1
            if isinstance(message, JSONRPCRequest):
                self._posts[coerce_request_id(message.id)] = post
            if outgoing.record is not None:
                outgoing.record.on_done = post.expire  # the word that it is cancelled may not come so far
            self.background.start_soon(self._post_in_turn, request, forward, outgoing, post)
        else:
            self._fail(
                DisconnectCause(f"accepts no more messages: {POST_LIMIT} are waiting"), outgoing.record, ran=False
            )
        return httpx2.Response(202, request=request)

    def note_answer(self, request_id: RequestId) -> None:
        """Note that a request was answered."""
        if (post := self._posts.get(coerce_request_id(request_id))) is not None:
            post.is_answered = True
            post.expire()

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something in the background; it ends with the connection."""
        self.background.start_soon(work)

    def tell(self, what: str) -> None:
        """Write down a trouble that harms nobody."""
        log("DEBUG", self.server_id, "Server {!r} {}", self.server_id, what)

    async def _open(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        try:
            response = await sent_within_origin(request, forward)
        except Exception as error:
            if was_unreachable(request.url, error):
                self.channel.mark_lost(unreachable(request.url, error))
            else:
                self.channel.mark_lost(refused(Failure(f"broke off with {type(error).__name__}", cause=error)))
            raise
        status, kind = response.status_code, content_type(response)
        if response.next_request is not None:
            words = f"redirects to {origin(response.next_request.url)}, which is not followed"
            self.channel.mark_lost(refused(Failure(words, status=status)))
        elif not response.is_success:
            self.channel.mark_lost(refused(Failure(f"answered with HTTP status {status}", status=status)))
        elif kind != EVENT_STREAM:
            self.channel.mark_lost(DisconnectCause(f"answered with {kind or 'no type'} instead of an event stream"))
        return watch(response, self.event_limit, self._note_end)

    def _note_end(self, error: Exception | None) -> None:
        if isinstance(error, TooLong):
            sdk = self.event_limit == EVENT_LIMIT
            limit = (
                f"the {EVENT_LIMIT} bytes that the SDK takes" if sdk else f"max_message_size={self.event_limit} bytes"
            )
            self.channel.mark_lost(DisconnectCause(f"sent an event longer than {limit}"))
        else:
            self.channel.mark_lost(
                DisconnectCause("ended its event stream", cause=None if error is None else scrubbed(error))
            )

    async def _post_in_turn(self, request: httpx2.Request, forward: Forward, outgoing: Outgoing, post: _Post) -> None:
        message = outgoing.message.message
        try:
            if cancelled := self._posts.get(_cancelled(message)):
                cancelled.expire()
                with anyio.move_on_after(CANCEL_PATIENCE):
                    await cancelled.ended.wait()  # a server would not know yet what is cancelled
                if not cancelled.handed_over:
                    cancelled.scope.cancel()  # or it would arrive behind the word that it is cancelled
            await self._post(request, forward, outgoing, post)
        finally:
            self._under_way -= 1
            post.ended.set()
            if isinstance(message, JSONRPCRequest):
                del self._posts[coerce_request_id(message.id)]

    async def _post(self, request: httpx2.Request, forward: Forward, outgoing: Outgoing, post: _Post) -> None:
        async def trace(event: str, _info: object) -> None:
            post.handed_over = post.handed_over or event.endswith("send_request_headers.started")

        request.extensions = {**request.extensions, "trace": trace}
        message, response, said = outgoing.message.message, None, Said()
        try:
            with post.scope:
                response = await sent_within_origin(request, forward)
                if not response.is_success:
                    said = await hear_out(response, self.event_limit, _id_of(message))
        except Exception as error:  # noqa: BLE001  # it takes the wire down, and with it nobody else
            loss = DisconnectCause(f"could not be sent a message ({type(error).__name__})", cause=error)
            if was_unreachable(request.url, error):
                # Not draining: the call whose message was lost has nothing to wait for.
                loss = attrs.evolve(unreachable(request.url, error), draining=False)
            self._fail(loss, outgoing.record, ran=post.handed_over)
        if post.scope.cancelled_caught:
            if not isinstance(message, JSONRPCRequest):
                self.untaken.count(self.server_id)
        elif response is not None and response.is_success:
            with suppress(Exception), anyio.move_on_after(WORDS_TIMEOUT):
                await read_whole(response, WORDS_LIMIT)
        elif response is not None and not post.is_answered:
            self.refusals.note(RefusedPost(request, forward, response, said), message, outgoing.record)

    def _fail(self, loss: DisconnectCause, record: CallRecord | None, *, ran: bool) -> None:
        if record is not None and not ran:
            record.sent -= 1
        self.channel.mark_lost(loss)


def _id_of(message: JSONRPCMessage) -> RequestId:
    """Return the id of a request; one that no request has, if it is none."""
    return message.id if isinstance(message, JSONRPCRequest) else ""


def _cancelled(message: JSONRPCMessage) -> RequestId:
    """Return the id of the request that a message cancels; one that no request has, if it cancels none."""
    if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
        return coerce_request_id((message.params or {}).get("requestId", ""))
    return ""
