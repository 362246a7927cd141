"""The stream for the server's own messages, which the SDK opens with a GET in a legacy session.

The stream is optional, and says nothing about calls: whatever happens to it, the connection goes on, and at most a
probe is sent. The SDK would give up after two breaks, so it does not see them.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import final

import attrs
import httpx2

from mcp_pool.transports.channel import Channel
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.event_streams import WatchedStream
from mcp_pool.transports.http.exchange import forward_request
from mcp_pool.transports.http.redirects import redirected_request
from mcp_pool.transports.http.responses import EVENT_STREAM, content_type, rebuilt
from mcp_pool.transports.http.stream_pace import StreamPace


@final
@attrs.define(eq=False)
class ServerStream:
    """The stream of one connection, opened again and again."""

    channel: Channel
    """The channel of the connection."""
    max_message_size: int
    """The longest message in bytes that the server may send."""
    note: Callable[[str], None]
    """Logs a phrase that follows the server's name."""
    _pace: StreamPace = attrs.field(factory=StreamPace, init=False, repr=False)
    _was_open: bool = attrs.field(default=False, init=False)
    """Whether the server has ever opened it."""
    _is_refused: bool = attrs.field(default=False, init=False)
    """Whether the server has refused to open it, and is not asked again."""

    async def open(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Open the stream when its pace allows it, and return the response for the SDK.

        A server that refuses it, with any status, has none. One that had it open before is tried again, because it may
        be restarting, or be behind a proxy that is.
        """
        if self._is_refused:
            return httpx2.Response(HTTPStatus.METHOD_NOT_ALLOWED, request=request)  # the SDK asks again: it is not sent
        while (response := await self._try_to_open(request, forward)) is None:
            pass  # bounded by the pace, and by the connection
        return response

    async def _try_to_open(self, request: httpx2.Request, forward: Forward) -> httpx2.Response | None:
        """Return the response for the SDK; None to try again."""
        await self._pace.wait()
        try:
            response = await forward_request(request, forward)
        except Exception as error:  # noqa: BLE001  # the probe decides
            self._note_end(error)
            return None
        if response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        if response.is_success and content_type(response) == EVENT_STREAM:
            self._was_open = True
            limit, end, message, revise = self.max_message_size, self._note_end, self._note_message, self._pace.revise
            return rebuilt(response, WatchedStream(response, limit, end, message, revise, hide_break=True))
        if redirected_request(request, response) is not None:
            return response  # the SDK follows it, which is another request
        self.note(f"does not open a stream for its own messages: it answered with status {response.status_code}")
        if self._was_open:
            self._pace.note_end()
            await response.aclose()
            return None
        self._is_refused = True
        return response

    def _note_message(self, _message: bytes) -> None:
        self._pace.note_progress()
        self.channel.note_activity()

    def _note_end(self, error: Exception | None) -> None:
        """Have the server probed, by a POST, if the stream broke off or could not be opened."""
        self._pace.note_end()
        if error is not None:
            self.note(f"broke off the stream for its own messages ({type(error).__name__})")
            self.channel.suspect()
