"""One request of the protocol over HTTP, and what became of it.

A failure becomes an error response for this one request, so that the SDK goes on with all others; the true cause is
noted on the record of the call, or on the wire when the request is no call's.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, final

import attrs
import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, jsonrpc_message_adapter

from mcp_pool.checks import origin
from mcp_pool.errors import HttpStatus
from mcp_pool.transports.bodies import TooLong, WatchedStream, read_whole, rebuilt
from mcp_pool.transports.link import CallRecord, Failure, Link, Loss

PERSON_STATUSES: Final = frozenset({401, 403})
"""What a server answers until somebody corrects the credentials."""
OUTAGE_STATUSES: Final = frozenset({407, 408, 425, 429})
"""With all from 500 on: in the handshake they tell of trouble, and not of the era that a server speaks."""


def unreachable(url: httpx2.URL, error: Exception) -> Loss:
    """Return the loss of a server that no connection can be made to. Calls that have one may go on."""
    advice = "See whether it runs and listens there, and whether its name and its certificate are right."
    return Loss(f"could not be reached at {origin(url)}", cause=error, advice=advice, draining=True, unreachable=True)


def refused(failure: Failure) -> Loss:
    """Return the loss of a server that would not shake hands."""
    person = failure.status in PERSON_STATUSES
    advice = "Correct the credentials in headers or auth, then call restart()." if person else "See its log."
    cause = failure.cause if failure.status is None else HttpStatus(f"It {failure.what}.", status=failure.status)
    return Loss(failure.what, cause=cause, advice=advice)


@final
@attrs.define(eq=False)
class Exchange:
    """One request and its response."""

    request: httpx2.Request
    """What is sent."""
    link: Link
    """The wire."""
    record: CallRecord | None
    """The call that it is for, if any."""
    max_message_size: int
    """The longest message in bytes that the server may send."""
    _handed_over: bool = attrs.field(default=False, init=False)

    async def trace(self, event: str, _info: object) -> None:
        """Note, as an extension of the request, that a server begins to get it."""
        self._handed_over = self._handed_over or event.endswith("send_request_headers.started")

    def fail(self, failure: Failure) -> None:
        """Note why there is no answer."""
        if self.record is not None:
            self.record.failure = failure
            return
        self.link.failure = failure
        status, trouble = failure.status, PERSON_STATUSES | OUTAGE_STATUSES
        outage = status is None or status in trouble or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if outage and not self.link.established:
            # Or the SDK would take it for the answer of a server that speaks the older era, and shake hands anew.
            self.link.lose(refused(failure))

    def reject(self) -> None:
        """Note that the server provably did not run it."""
        if self.record is not None:
            self.record.sent -= 1

    def broke(self, error: Exception) -> httpx2.Response:
        """Note an error on the way, and return a response for the SDK."""
        if not self._handed_over:
            self.reject()
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            self.link.lose(unreachable(self.request.url, error))
        elif isinstance(error, TooLong):
            self.fail(self._too_long("an answer"))
        else:
            self.fail(Failure(f"broke off with {type(error).__name__}", cause=error))
            self.link.doubt()
        words = JSONRPCError(jsonrpc="2.0", id=0, error=ErrorData(code=INTERNAL_ERROR, message=type(error).__name__))
        headers = {"content-type": "application/json"}
        return httpx2.Response(503, headers=headers, content=words.model_dump_json(), request=self.request)

    async def look(self, response: httpx2.Response) -> httpx2.Response:
        """Return what the SDK is to see of a response, and note what the SDK would not tell."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.is_success and kind == "text/event-stream":
            return self.watched(response)
        if response.next_request is not None:
            # The SDK follows it when it stays within the origin; otherwise the call ends here.
            words = f"redirects to {origin(response.next_request.url)}, which is not followed"
            if self.record is not None:
                self.record.failure = Failure(words, status=response.status_code)
            return response
        body = await read_whole(response, self.max_message_size)
        message = _parsed(body) if kind == "application/json" else None
        if response.is_success and (response.status_code == HTTPStatus.ACCEPTED or message is None):
            words = f"answered with status {response.status_code} and {len(body)} bytes of {kind or 'no type'}"
            self.fail(Failure(f"{words} that are no JSON-RPC message", malformed=True))
        elif not response.is_success and not isinstance(message, JSONRPCError):
            self.fail(Failure(f"answered with HTTP status {response.status_code}", status=response.status_code))
        return rebuilt(response, body)

    def watched(self, response: httpx2.Response) -> httpx2.Response:
        """Return a response whose stream of events is looked at."""
        return rebuilt(response, WatchedStream(response, self.max_message_size, self._note_end))

    def _note_end(self, error: Exception | None) -> None:
        if isinstance(error, TooLong):
            self.fail(self._too_long("an event"))
        else:
            self.fail(Failure("ended its stream of events without an answer", cause=error))

    def _too_long(self, what: str) -> Failure:
        return Failure(f"sent {what} longer than max_message_size={self.max_message_size} bytes", malformed=True)


def _parsed(body: bytes) -> JSONRPCMessage | None:
    try:
        return jsonrpc_message_adapter.validate_json(body, by_name=False)
    except ValueError:
        return None
