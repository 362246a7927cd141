"""One request of the protocol over HTTP, and what became of it.

A failure becomes an error response for this one request, so that the SDK goes on with all others; the true cause is
noted on the record of the call, or on the wire when the request is no call's.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import final

import anyio
import attrs
import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse

from mcp_pool._shared.exceptions import cause_of, chain, plain
from mcp_pool._shared.guard import contained, printable
from mcp_pool._shared.redaction import origin
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure
from mcp_pool.transports.http.answers import JSON, Said, bears, hear_out, parsed, parsed_error_without_id
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.handshake_errors import AUTH_STATUSES, is_trouble, refused
from mcp_pool.transports.http.responses import (
    EVENT_STREAM,
    Patience,
    TooLong,
    WatchedStream,
    content_type,
    read_whole,
    rebuilt,
)
from mcp_pool.transports.http.session import SESSION_LOST, session_lost


def unreachable(url: httpx2.URL, error: Exception) -> DisconnectCause:
    """Return the loss of a server that no connection can be made to. Calls that have one may go on."""
    advice = "Check that it is running and listening there, and that its host name and certificate are correct."
    return DisconnectCause(
        f"could not be reached at {origin(url)}", cause=error, advice=advice, draining=True, unreachable=True
    )


def was_unreachable(url: httpx2.URL, error: Exception) -> bool:
    """Tell whether an error means that no connection could be made to a server, and not to another on the way."""
    if not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return False
    try:
        return origin(error.request.url) == origin(url)
    except RuntimeError:  # it was not raised for a request: an event hook may raise anything
        return False


async def forwarded(request: httpx2.Request, forward: Forward) -> httpx2.Response:
    """Forward a request. What it raises is one plain error, and so is each of its causes.

    A cancellation that comes together with errors, as it may from an authorization flow on trio, is the cancellation.
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
    raise scrubbed(first)


def scrubbed(error: BaseException) -> BaseException:
    """Return an error after putting one error in the place of each group among its causes.

    On trio, a failed attempt to connect has such a cause.
    """
    for link in chain(error):
        below = cause_of(link)
        if below is not None and plain(below) is not below:
            link.__cause__ = plain(below)
    return error


@final
@attrs.define(eq=False)
class Exchange:
    """One request and its response."""

    request: httpx2.Request
    """What is sent."""
    asked: JSONRPCRequest
    """The message in it."""
    channel: Channel
    """The wire."""
    record: CallRecord | None
    """The call that it is for, if any."""
    max_message_size: int
    """The longest message in bytes that the server may send."""
    patience: Patience = attrs.field(factory=Patience, init=False)
    """How long to wait: no longer than the call."""
    on_answer: Callable[[int, JSONRPCResponse | JSONRPCError], None] | None = attrs.field(default=None, init=False)
    """Called with the HTTP status and the answer, when the server has answered."""
    _handed_over: bool = attrs.field(default=False, init=False)
    _is_answered: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.request.extensions = {**self.request.extensions, "trace": self._trace}
        self.channel.failure = None
        if self.record is not None:
            self.record.failure = None
            # Once a call is over nobody reads its answer, and a server that owes one would keep the connection for it.
            self.patience.is_over = self.record.done
            self.record.on_done = self.patience.end

    async def _trace(self, event: str, _info: object) -> None:
        """Note, as an extension of the request, that a server begins to get it."""
        self._handed_over = self._handed_over or event.endswith("send_request_headers.started")

    async def sent(self, forward: Forward) -> httpx2.Response:
        """Send the request, and return the response."""
        response = await forwarded(self.request, forward)
        self._handed_over = True  # the transport of a client of the user's may tell nothing of what it sends
        return response

    def fail(self, failure: Failure) -> httpx2.Response:
        """Note why there is no answer, and return a response for the SDK."""
        if self.record is not None:
            self.record.failure = failure
        else:
            self.channel.failure = failure
            outage = failure.status is None or failure.status in AUTH_STATUSES or is_trouble(failure.status)
            if outage and not self.channel.is_settled:
                # Or the SDK would take it for the answer of a legacy server, and begin the legacy handshake.
                self.channel.mark_lost(refused(failure))
        words = JSONRPCError(jsonrpc="2.0", id=0, error=ErrorData(code=INTERNAL_ERROR, message=failure.what))
        headers = {"content-type": JSON}
        return httpx2.Response(503, headers=headers, content=words.model_dump_json(), request=self.request)

    def reject(self) -> None:
        """Note that the server provably did not run it."""
        if self.record is not None:
            self.record.sent -= 1

    def lose_session(self) -> httpx2.Response:
        """Note that the server refused it unread, as it does not know the session; return a response for the SDK."""
        self.reject()
        if self.record is not None:
            self.record.is_rejected = True
        self.channel.mark_lost(session_lost(HTTPStatus.NOT_FOUND))
        return self.fail(Failure(SESSION_LOST))

    def broke(self, error: Exception) -> httpx2.Response:
        """Note an error on the way, and return a response for the SDK."""
        if not self._handed_over:
            self.reject()
        if was_unreachable(self.request.url, error):
            self.channel.mark_lost(unreachable(self.request.url, error))
            return self.fail(Failure("could not be reached", cause=error))
        if self._handed_over:
            self._doubt(error)
        return self.fail(self._failure(error, "an answer"))

    async def look(self, response: httpx2.Response) -> httpx2.Response:
        """Return what the SDK is to see of a response of success or a redirect, and note what it would not tell."""
        status, kind = response.status_code, content_type(response)
        self.channel.note_activity()
        if response.is_success and status != HTTPStatus.ACCEPTED and kind == EVENT_STREAM:
            return self.watched(response)
        if response.next_request is not None:
            # The SDK follows it when it stays within the origin; otherwise the call ends here.
            where = origin(response.next_request.url)
            self.fail(Failure(f"redirects to {where}, which is not followed", status=status))
            await self.hear_out(response)
            return rebuilt(response, b"")
        body = await read_whole(response, self.max_message_size)
        answer = None
        if status != HTTPStatus.ACCEPTED and kind.startswith(JSON):  # as the SDK sees it
            answer = parsed(body) or parsed_error_without_id(body)
        if isinstance(answer, JSONRPCError) and answer.id is None:
            # The server could not read the id, and the SDK would take the error for nobody's.
            answer = answer.model_copy(update={"id": self.asked.id})
            body = answer.model_dump_json(exclude_unset=True).encode()
        if not isinstance(answer, JSONRPCResponse | JSONRPCError) or not bears(answer.id, self.asked.id):
            words = f"answered with HTTP status {status} and {len(body)} bytes of {kind or 'no type'}"
            return self.fail(Failure(f"{words} that do not answer the request", malformed=True))
        self._note_answer(status, answer)
        return rebuilt(response, body)

    async def hear_out(self, response: httpx2.Response) -> Said:
        """Read the body of a response that has failed by its status, and return what it says."""
        return await hear_out(response, self.max_message_size, self.asked.id)

    def refused(self, response: httpx2.Response, said: Said) -> httpx2.Response:
        """Return what the SDK is to see of a response with an error status: what the server says, if it says anything.

        Args:
            response: The response.
            said: What its body says.
        """
        status = response.status_code
        if said.answer is not None or status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        told_off = self.record is None and not self.channel.is_settled and status in AUTH_STATUSES
        message = said.answer or said.error
        if message is None or told_off:
            return self.fail(Failure(f"answered with HTTP status {status}", status=status))
        if said.answer is not None:
            self._note_answer(status, said.answer)
        content = message.model_copy(update={"id": self.asked.id}).model_dump_json(by_alias=True, exclude_unset=True)
        # Of a response with an error status, the SDK takes no result.
        seen = status if isinstance(message, JSONRPCError) else HTTPStatus.OK
        return httpx2.Response(seen, headers={"content-type": JSON}, content=content, request=self.request)

    def watched(self, response: httpx2.Response) -> httpx2.Response:
        """Return a response whose stream of events is looked at."""
        stream = WatchedStream(response, self.max_message_size, self._note_end, self._note_message, self.patience)
        return rebuilt(response, stream)

    def _note_answer(self, status: int, answer: JSONRPCResponse | JSONRPCError) -> None:
        if self.on_answer is not None:
            self.on_answer(status, answer)

    def _note_message(self, data: bytes) -> None:
        if self._is_answered:
            return
        self.channel.note_activity()
        message = parsed(data)
        if message is None:
            self.fail(Failure("sent an event that is not a JSON-RPC message", malformed=True))
        self._is_answered = message is None or isinstance(message, JSONRPCResponse | JSONRPCError)
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._note_answer(HTTPStatus.OK, message)

    def _note_end(self, error: Exception | None) -> None:
        if error is None:
            self.fail(Failure("ended its event stream without an answer"))
            return
        self._doubt(error)
        self.fail(self._failure(error, "an event"))

    def _doubt(self, error: Exception) -> None:
        if self.record is not None and self.record.is_call and isinstance(error, httpx2.TransportError):
            self.channel.suspect()

    def _failure(self, error: Exception, what: str) -> Failure:
        if isinstance(error, TooLong):
            words = f"sent {what} longer than max_message_size={self.max_message_size} bytes"
            return Failure(words, malformed=True)
        if isinstance(error, httpx2.DecodingError):
            return Failure(f"sent {what} that cannot be decoded", malformed=True, cause=error)
        kind = type(error).__name__
        words = f"broke off with {kind}" if self._handed_over else f"could not be sent the request ({kind})"
        return Failure(words, cause=error)
