"""What a server says over SSE: on its stream of events, and in what it responds to a post."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

import anyio
import attrs
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCResponse, RequestId

from mcp_pool.transports.channel import Channel
from mcp_pool.transports.tracked_streams import Source


@final
@attrs.define(eq=False)
class Inbox:
    """The stream of messages for the SDK."""

    _source: Source
    """The messages on the stream of events."""
    _channel: Channel
    """Learns that the server has said something."""
    _on_answer: Callable[[RequestId], None]
    """Called with the id of each request that was answered on the stream."""
    _delivered: deque[SessionMessage] = attrs.field(factory=deque[SessionMessage], init=False, repr=False)
    """Answers that came otherwise and have not been taken."""
    _waiting: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False, repr=False)
    """Holds the wait for the next message on the stream."""

    def deliver(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        """Put in an answer that did not come on the stream."""
        self._channel.note_answer(answer)  # at once: a loss must not take an answer that has arrived from its call
        self._delivered.append(SessionMessage(answer))
        self._waiting.cancel()

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raise `anyio.EndOfStream` when there will be none."""
        item: SessionMessage | Exception | None = None
        while item is None:
            if self._delivered:
                await anyio.lowlevel.checkpoint()
                return self._delivered.popleft()
            with anyio.CancelScope() as self._waiting:
                item = await self._source.receive()
        self._channel.note_activity()
        message = item.message if isinstance(item, SessionMessage) else None
        if isinstance(message, JSONRPCResponse | JSONRPCError) and message.id is not None:
            self._on_answer(message.id)
        return item

    async def aclose(self) -> None:
        """Close the stream."""
        await self._source.aclose()
