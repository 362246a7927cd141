"""The messages from a server over SSE: from its event stream, and from its responses to POSTs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

import anyio
import attrs
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, RequestId

from mcp_pool.transports.channel import Answer, Channel
from mcp_pool.transports.tracked_streams import Source


@final
@attrs.define(eq=False)
class Inbox:
    """The stream of messages that the SDK reads."""

    _source: Source
    """The messages on the event stream."""
    _channel: Channel
    """Records activity and answers."""
    _on_answer: Callable[[RequestId | None], None]
    """Called with the id of each answer; None for an error without one."""
    _delivered: deque[SessionMessage] = attrs.field(factory=deque[SessionMessage], init=False, repr=False)
    """Answers from responses to POSTs that the SDK has not received yet."""
    _waiting: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False, repr=False)
    """The scope of the wait for the next message on the event stream."""

    def deliver(self, message: JSONRPCMessage) -> None:
        """Pass on a message that did not come on the event stream, or that the SDK cannot read there."""
        if isinstance(message, Answer):
            self._channel.note_answer(message)  # at once, so that a loss does not cancel a call that has been answered
            self._on_answer(message.id)
        self._delivered.append(SessionMessage(message))
        self._waiting.cancel()

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raise `anyio.EndOfStream` at the end of the stream."""
        item: SessionMessage | Exception | None = None
        while item is None:
            if self._delivered:
                await anyio.lowlevel.checkpoint()
                return self._delivered.popleft()
            with anyio.CancelScope() as self._waiting:
                item = await self._source.receive()
        self._channel.note_activity()
        message = item.message if isinstance(item, SessionMessage) else None
        if isinstance(message, Answer):
            self._on_answer(message.id)
        return item

    async def aclose(self) -> None:
        """Close the stream."""
        await self._source.aclose()
