"""One JSON-RPC request over HTTP, and its response.

A failure becomes an error response to this one request, so that the SDK continues with all others. The actual cause is
recorded on the call or, if the request belongs to no call, on the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, final

import anyio
import attrs
import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCRequest

from mcp_pool._shared.exceptions import cause_of, chain, plain
from mcp_pool._shared.guard import contained, printable
from mcp_pool.transports.answered_ids import problem
from mcp_pool.transports.channel import Answer, CallRecord, Channel, Failure
from mcp_pool.transports.http.answers import JSON, ParsedBody, read_answer
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.connecting import Peer, unreachable, was_unreachable
from mcp_pool.transports.http.event_streams import WatchedStream
from mcp_pool.transports.http.handshake_errors import AUTH_STATUSES, handshake_failed, is_inconclusive, is_outage
from mcp_pool.transports.http.headers import explained
from mcp_pool.transports.http.responses import (
    EVENT_STREAM,
    CancellableWait,
    TooLong,
    content_type,
    read_whole,
    rebuilt,
    retry_after,
)
from mcp_pool.transports.http.session import SESSION_LOST, session_lost
from mcp_pool.transports.http.status_errors import error_status
from mcp_pool.transports.http.stream_pace import StreamPace
from mcp_pool.transports.messages import (
    BOM,
    RAISE_LIMIT,
    NotAMessage,
    is_same_id,
    parse,
    parse_error_without_id,
    parse_message,
)


async def forward_request(request: httpx2.Request, forward: Forward) -> httpx2.Response:
    """Forward a request. An exception group is replaced by one of its exceptions, in the chain of causes as well.

    On trio, an authorization flow may raise a cancellation together with errors: then the cancellation is raised.
    """
    try:
        return await contained(forward, request)
    except Exception as error:  # noqa: BLE001  # raised below, as one error
        first = printable(plain(error))
    except BaseExceptionGroup as group:
        cancelled, rest = group.split(anyio.get_cancelled_exc_class())
        if cancelled is None or not isinstance(rest, ExceptionGroup):
            raise
        first = plain(cancelled)
    raise with_plain_causes(first)


def with_plain_causes(error: BaseException) -> BaseException:
    """Replace each exception group among the causes of an error by one of its exceptions, and return the error.

    On trio, the cause of a failed connection attempt is a group.
    """
    for link in chain(error):
        below = cause_of(link)
        if below is not None and plain(below) is not below:
            link.__cause__ = plain(below)
    return error


@final
@attrs.define(eq=False)
class SendTrace:
    """Learns from the trace events of a request whether the server may have received it."""

    is_sent: bool = attrs.field(default=False, init=False)
    """Whether sending has started."""
    peer: Peer | None = attrs.field(default=None, init=False)
    """What it was connected to, if it needed a new connection: the server, or a proxy."""

    def attach(self, request: httpx2.Request) -> None:
        """Trace a request."""
        request.extensions = {**request.extensions, "trace": self._note}

    async def _note(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.started"):
            self.peer = info["host"], info["port"]
        elif event.endswith("send_request_headers.started"):
            # A proxy that is asked for a tunnel does not receive the request itself.
            self.is_sent = self.is_sent or "request" not in info or info["request"].method != b"CONNECT"


@final
@attrs.define(eq=False)
class Exchange:
    """One request and its response."""

    request: httpx2.Request
    """The HTTP request."""
    message: JSONRPCRequest
    """The message in it."""
    channel: Channel
    """The channel of the connection."""
    record: CallRecord | None
    """The call that the request belongs to, if any."""
    max_message_size: int
    """The longest message in bytes that the server may send."""
    has_auth: bool = False
    """Whether an `httpx2.Auth` authorizes the request, which may have asked a person for it."""
    pace: StreamPace = attrs.field(factory=StreamPace)
    """Decides how soon an event stream without an answer is resumed."""
    wait: CancellableWait = attrs.field(factory=CancellableWait, init=False)
    """Runs what waits for the server, and is cancelled when the call ends."""
    on_answer: Callable[[int, Answer], None] = attrs.field(default=lambda _status, _answer: None, init=False)
    """Called with the HTTP status and the answer when the server has answered."""
    _trace: SendTrace = attrs.field(factory=SendTrace, init=False)
    _is_answered: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._trace.attach(self.request)
        self.channel.failure = None
        if self.record is not None:
            self.record.failure = None
            # Nobody reads the answer to a call that has ended; waiting for it would keep the connection busy.
            self.wait.is_cancelled = self.record.done
            self.record.on_done = self.wait.cancel

    async def resume(self, forward: Forward) -> httpx2.Response:
        """Wait for as long as the pace says, send the request, and return the response."""
        await self.pace.wait()
        return await self.send(forward)

    async def send(self, forward: Forward) -> httpx2.Response:
        """Send the request, and return the response."""
        response = await forward_request(self.request, forward)
        self._trace.is_sent = True  # the transport of a borrowed client may not trace what it sends
        return response

    def fail(self, failure: Failure) -> httpx2.Response:
        """Record why there is no answer, and return an error response for the SDK."""
        self.channel.note_failure(self.record, failure)
        if self.record is None and not self.channel.is_settled:
            self._fail_handshake(failure)
        error = JSONRPCError(jsonrpc="2.0", id=0, error=ErrorData(code=INTERNAL_ERROR, message=failure.what))
        return self._response(503, error.model_dump_json())

    def _fail_handshake(self, failure: Failure) -> None:
        """End the attempt, unless the SDK is to go on: after `server/discover`, with the legacy handshake."""
        channel, is_unauthorized = self.channel, failure.status in AUTH_STATUSES
        # An auth flow could ask a person twice. And the SDK repeats `server/discover` only if the server is modern.
        is_final = is_unauthorized and (self.has_auth or channel.inconclusive is not None)
        if self.message.method == "server/discover" and is_inconclusive(failure) and not is_final:
            channel.inconclusive = failure
        elif failure.status is None or is_unauthorized or is_outage(failure.status):
            # Otherwise the SDK would take this for the response of a legacy server.
            channel.mark_lost(handshake_failed(failure))

    def mark_not_run(self) -> None:
        """Record that the server certainly did not run the request."""
        if self.record is not None:
            self.record.requests_sent -= 1

    def lose_session(self) -> httpx2.Response:
        """Mark the session as lost and the request as not run, and return an error response for the SDK."""
        self.mark_not_run()
        if self.record is not None:
            self.record.session_rejected = True
        self.channel.mark_lost(session_lost(HTTPStatus.NOT_FOUND))
        return self.fail(Failure(SESSION_LOST))

    def transport_failed(self, error: Exception) -> httpx2.Response:
        """Handle an exception from sending or receiving, and return an error response for the SDK."""
        if not self._trace.is_sent:
            self.mark_not_run()
        if was_unreachable(self.request.url, error):
            self.channel.mark_lost(unreachable(self.request.url, error, self._trace.peer))
            return self.fail(Failure("could not be reached", cause=error))
        if self._trace.is_sent:
            self._suspect(error)
        return self.fail(self._failure(error, "an answer"))

    async def success_response(self, response: httpx2.Response) -> httpx2.Response:
        """Turn a successful response, or a redirect, into the response for the SDK, and record why it fails if so."""
        status, kind = response.status_code, content_type(response)
        self.channel.note_activity()
        if response.is_success and status != HTTPStatus.ACCEPTED and kind == EVENT_STREAM:
            return self.event_stream_response(response)
        if response.next_request is not None:
            # Cleared if the SDK follows the redirect, which is a new exchange.
            self.fail(error_status(response, self.channel))
            await self.read_answer(response)
            return rebuilt(response, b"")
        body = (await read_whole(response, self.max_message_size)).removeprefix(BOM)
        answer = None
        if status != HTTPStatus.ACCEPTED and kind.startswith(JSON):  # the SDK's own conditions
            answer = parse_message(body) or parse_error_without_id(body)
        if isinstance(answer, JSONRPCError) and answer.id is None:
            # The server could not read the id; without one, the SDK would not assign the error to the request.
            answer = answer.model_copy(update={"id": self.message.id})
            body = answer.model_dump_json(exclude_unset=True).encode()
        if not isinstance(answer, Answer) or not is_same_id(answer.id, self.message.id):
            content = f"{len(body)} bytes of {kind or 'no content type'}"
            what = f"answered with HTTP status {status} and {content}, which do not answer the request"
            why = self._quoted(body) if kind.startswith(JSON) else ""
            return self.fail(Failure(f"{what}{why}", malformed=True))
        self.on_answer(status, answer)
        return rebuilt(response, body)

    async def read_answer(self, response: httpx2.Response) -> ParsedBody:
        """Read the body of a response with an error status, and return the answer in it."""
        return await read_answer(response, self.max_message_size, self.message.id)

    def error_response(self, response: httpx2.Response, body: ParsedBody) -> httpx2.Response:
        """Turn a response with an error status into one for the SDK: the server's own message if `body` has one."""
        status = response.status_code
        if body.answer is not None or status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        is_final = status in AUTH_STATUSES or retry_after(response) is not None
        message = body.answer or body.error
        if message is None or (is_final and self.record is None and not self.channel.is_settled):
            return self.fail(error_status(response, self.channel, body.excerpt))
        if body.answer is not None:
            self.on_answer(status, body.answer)
        content = message.model_copy(update={"id": self.message.id}).model_dump_json(by_alias=True, exclude_unset=True)
        # The SDK ignores a result in a response with an error status.
        return self._response(status if isinstance(message, JSONRPCError) else HTTPStatus.OK, content)

    def event_stream_response(self, response: httpx2.Response) -> httpx2.Response:
        """Return a copy of a response with a watched event stream."""
        limit, end, message = self.max_message_size, self._note_end, self._note_message
        return rebuilt(response, WatchedStream(response, limit, end, message, self.pace.revise, wait=self.wait))

    def _response(self, status: int, content: str) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": JSON}, content=content, request=self.request)

    def _note_message(self, data: bytes) -> None:
        self.pace.note_progress()
        if self._is_answered:
            return
        self.channel.note_activity()
        message = parse_message(data)
        if message is None:
            why = self._quoted(data)
            self.fail(Failure(f"sent an event that is not a JSON-RPC message{why}", malformed=True))
        self._is_answered = message is None or isinstance(message, Answer)
        if isinstance(message, Answer):
            self.on_answer(HTTPStatus.OK, message)

    def _quoted(self, data: bytes) -> str:
        """Return what is wrong with data that should be a message, and its beginning; empty if it is a message."""
        found = parse(data)
        return f" ({problem(found)}): {self.channel.quote(data)}" if isinstance(found, NotAMessage) else ""

    def _note_end(self, error: Exception | None) -> None:
        self.pace.note_end()
        if error is None:
            self.fail(Failure("ended its event stream without an answer"))
            return
        self._suspect(error)
        self.fail(self._failure(error, "an event"))

    def _suspect(self, error: Exception) -> None:
        if self.record is not None and self.record.is_call and isinstance(error, httpx2.TransportError):
            self.channel.suspect()

    def _failure(self, error: Exception, received: str) -> Failure:
        if isinstance(error, TooLong):
            what = f"sent {received} longer than max_message_size={self.max_message_size} bytes"
            return Failure(what, malformed=True, advice=RAISE_LIMIT)
        if isinstance(error, httpx2.DecodingError):
            return Failure(f"sent {received} that cannot be decoded", malformed=True, cause=error)
        what = "did not complete the request" if self._trace.is_sent else "could not be sent the request"
        why, cause = explained(error)
        return Failure(f"{what} ({why})", cause=cause)
