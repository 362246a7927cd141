"""The two message streams of a wire, between the SDK and the transport.

They record on each call what was sent and received for it. They also encode outgoing messages, in the sender's task, so
that a message that cannot be encoded fails its own call only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Final, Protocol, Self, final

import anyio
import attrs
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
)
from pydantic_core import PydanticSerializationError

from mcp_pool.transports.channel import Answer, CallRecord, Channel, DisconnectCause

CANCEL_NOTIFICATION_TIMEOUT: Final = 0.1
"""Seconds that a cancel notification may take to be sent. The SDK shields it for up to 5 s, and a cancelled caller
would hang for that long if the server does not read."""


@final
@attrs.frozen
class Outgoing:
    """A message on its way to the server."""

    message: SessionMessage
    """The message from the SDK."""
    body: bytes = attrs.field(repr=False)
    """The message, encoded as JSON."""
    record: CallRecord | None
    """The call that the request belongs to, if any."""


class Source(Protocol):
    """Where messages come from."""

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raise `anyio.EndOfStream` at the end of the stream."""
        ...

    async def aclose(self) -> None:
        """Close the stream."""
        ...


class Sink(Protocol):
    """Where messages go."""

    async def send(self, item: Outgoing, /) -> None:
        """Send a message."""
        ...

    async def aclose(self) -> None:
        """Close the stream."""
        ...


class _TrackedStream(ABC):
    """What both streams share: each is an async context manager that closes itself."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the stream."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.aclose()


@final
@attrs.define(eq=False)
class TrackedReadStream(_TrackedStream):
    """The stream of messages that the SDK reads. Records the answers and the server's requests."""

    _source: Source
    _channel: Channel
    notes_activity: bool = True
    """Whether each message counts as activity of the server. False if the wire makes up answers to failed requests, or
    records activity itself, closer to the time at which the server wrote."""

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raise `anyio.EndOfStream` at the end of the stream."""
        try:
            item = await self._source.receive()
        except anyio.EndOfStream:
            # Whatever ended the SDK's reader, nothing can arrive any more. Without effect if the wire knows the cause.
            self._channel.mark_lost(DisconnectCause("can no longer be read: its stream of messages has ended"))
            raise
        if self.notes_activity:
            self._channel.note_activity()
        if isinstance(item, SessionMessage):
            if isinstance(item.message, Answer):
                self._channel.note_answer(item.message)
            else:
                self._channel.note_server_request(item.message)
        return item

    async def aclose(self) -> None:
        """Close the stream."""
        await self._source.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


@final
@attrs.define(eq=False)
class TrackedWriteStream(_TrackedStream):
    """The stream of messages that the SDK writes. Records the requests, and the answers to the server."""

    _sink: Sink
    _channel: Channel

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message.

        Raises:
            anyio.ClosedResourceError: The wire is down; nothing was sent.
            pydantic_core.PydanticSerializationError: The message cannot be encoded as JSON; nothing was sent.
        """
        if self._channel.disconnect_cause is not None:
            # A request sent now would be lost. Refusing it makes certain that the server does not run it.
            raise anyio.ClosedResourceError
        body, record = _encoded(item.message), None
        if isinstance(item.message, JSONRPCRequest):
            record = self._channel.note_request(item.message)
        else:
            self._channel.note_other_message(item.message)
        try:
            with anyio.move_on_after(_write_timeout(item.message)):
                await self._sink.send(Outgoing(item, body, record))
                self._channel.note_reply(item.message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if self._channel.is_open:
                # Nothing can be sent any more: a connection that still looked open would fail every call.
                self._channel.mark_lost(DisconnectCause("no longer accepts messages"))
            raise

    async def aclose(self) -> None:
        """Close the stream."""
        await self._sink.aclose()


def _encoded(message: JSONRPCMessage) -> bytes:
    """Encode a message here, in the sender's task: an encoding error in the transport would take the wire down."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except PydanticSerializationError:
        if not isinstance(message, JSONRPCError):
            raise  # to the caller; for a result, the SDK then sends an error instead
        error = ErrorData(code=INTERNAL_ERROR, message="Internal error")
        return JSONRPCError(jsonrpc="2.0", id=message.id, error=error).model_dump_json(exclude_unset=True).encode()


def _write_timeout(message: Any) -> float:
    """Return the number of seconds that a message may take to be sent."""
    if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
        return CANCEL_NOTIFICATION_TIMEOUT
    return math.inf
