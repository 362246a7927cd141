"""The event stream over SSE, which brings everything that the server sends. Its end is the loss of the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import anyio
import attrs
import httpx2
from mcp_types import JSONRPCMessage

from mcp_pool.transports.channel import Channel, DisconnectCause, Failure
from mcp_pool.transports.http.answers import OTHER_BODY_TIMEOUT, ParsedBody, read_answer
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.connecting import unreachable, was_unreachable
from mcp_pool.transports.http.endpoint import Endpoint
from mcp_pool.transports.http.event_streams import watch
from mcp_pool.transports.http.exchange import SendTrace, with_plain_causes
from mcp_pool.transports.http.handshake_errors import handshake_failed
from mcp_pool.transports.http.headers import HeadersFailed, explained
from mcp_pool.transports.http.redirects import send_within_origin
from mcp_pool.transports.http.responses import EVENT_STREAM, TooLong, content_type
from mcp_pool.transports.http.status_errors import error_status
from mcp_pool.transports.messages import RAISE_LIMIT, parse
from mcp_pool.transports.unreadable import Unreadable, is_readable

MAX_EVENT_SIZE: Final = 2**20
"""The longest event in bytes that the SDK accepts; its parser fails on a longer one."""
MAX_REJECTION_SIZE: Final = 65536
"""The longest body of a rejected GET that is read, in bytes."""


@final
@attrs.define(eq=False)
class SseStream:
    """The event stream of one connection."""

    server_id: str
    """For the log."""
    channel: Channel
    """The channel of the connection."""
    event_limit: int
    """The longest event in bytes that the server may send."""
    endpoint: Endpoint
    """Checks where the server wants messages to be posted."""
    deliver: Callable[[JSONRPCMessage], None] | None = attrs.field(default=None, init=False)
    """Passes a message to the SDK; None before the first request can have been sent."""
    _unreadable: Unreadable = attrs.field(init=False, repr=False)
    """Handles events that are not messages."""

    def __attrs_post_init__(self) -> None:
        self.channel.unreadable.noun = "event"
        advice = "Fix the server: each event must be one JSON-RPC message."
        self._unreadable = Unreadable(self.server_id, self.channel, "sends events", advice)

    async def open(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Open the stream, and return the response for the SDK. If this fails, the connection is lost."""
        trace = SendTrace()
        trace.attach(request)
        try:
            response = await send_within_origin(request, forward)
        except Exception as error:
            if was_unreachable(request.url, error):
                self.channel.mark_lost(unreachable(request.url, error, trace.peer))
            else:
                is_unsent = isinstance(error, HeadersFailed)
                what = "could not be sent the request" if is_unsent else "did not complete the request"
                why, cause = explained(error)
                self.channel.mark_lost(handshake_failed(Failure(f"{what} ({why})", cause=cause)))
            raise
        kind = content_type(response)
        if not response.is_success:
            body = ParsedBody()
            with anyio.move_on_after(OTHER_BODY_TIMEOUT):
                body = await read_answer(response, MAX_REJECTION_SIZE, "")
            self.channel.mark_lost(handshake_failed(error_status(response, self.channel, body.excerpt)))
        elif kind != EVENT_STREAM:
            what = f"answered with {kind or 'no content type'} instead of an event stream"
            self.channel.mark_lost(DisconnectCause(what))
        return watch(response, self.event_limit, self._note_end, self._note_event, self.endpoint.revise)

    def _note_event(self, data: bytes) -> None:
        """Pass messages to the SDK in place of an event that it cannot read."""
        if self.deliver is not None and not is_readable(found := parse(data)):
            for message in self._unreadable.messages(data, found):
                self.deliver(message)

    def _note_end(self, error: Exception | None) -> None:
        if isinstance(error, TooLong):
            limit, advice = f"max_message_size={self.event_limit} bytes", RAISE_LIMIT
            if self.event_limit == MAX_EVENT_SIZE:
                limit = f"the {MAX_EVENT_SIZE} bytes that the SDK accepts"
                advice = "Let the server send less, or use HttpServer if it has streamable HTTP."
            self.channel.mark_lost(DisconnectCause(f"sent an event longer than {limit}", advice=advice))
        else:
            cause = None if error is None else with_plain_causes(error)
            self.channel.mark_lost(DisconnectCause("ended its event stream", cause=cause))
