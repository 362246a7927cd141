"""Taps on the two streams of a wire, between the SDK and what carries the messages.

They note on the records of calls what passes, and they encode what is sent: in the task of the one who sends it, where
an error harms nobody else.
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
    JSONRPCResponse,
)
from pydantic_core import PydanticSerializationError

from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause

CANCEL_NOTIFICATION_TIMEOUT: Final = 0.1
"""Seconds for which a cancel notice may wait for the wire. The SDK shields it for up to 5 s, and a caller that was
cancelled would hang that long on a server that reads nothing."""


@final
@attrs.frozen
class Outgoing:
    """A message on its way to the server."""

    message: SessionMessage
    """The message, as the SDK gave it."""
    body: bytes = attrs.field(repr=False)
    """The same as JSON."""
    record: CallRecord | None
    """The call that it is a request of, if any."""


class Source(Protocol):
    """Where messages come from."""

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raise `anyio.EndOfStream` when there will be none."""
        ...

    async def aclose(self) -> None:
        """Close the stream."""
        ...


class Sink(Protocol):
    """Where messages go."""

    async def send(self, item: Outgoing, /) -> None:
        """Hand over a message."""
        ...

    async def aclose(self) -> None:
        """Close the stream."""
        ...


class _TrackedStream(ABC):
    """What both taps share: a stream is an asynchronous context manager that closes itself."""

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
    """The stream of messages that the SDK reads, noting the answers that pass."""

    _source: Source
    _channel: Channel
    notes_activity: bool = True
    """Whether what passes is a activity. Not so where the wire itself answers requests that have failed, or knows
    better when the server wrote it."""

    async def receive(self) -> SessionMessage | Exception:
        """Return the next message; raise `anyio.EndOfStream` when there will be none."""
        item = await self._source.receive()
        if self.notes_activity:
            self._channel.note_activity()
        if isinstance(item, SessionMessage):
            if isinstance(item.message, JSONRPCResponse | JSONRPCError):
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
    """The stream of messages that the SDK writes, noting the requests that pass."""

    _sink: Sink
    _channel: Channel

    async def send(self, item: SessionMessage, /) -> None:
        """Hand a message to the writer.

        Raises:
            anyio.ClosedResourceError: The wire is down; nothing was written.
            pydantic_core.PydanticSerializationError: It cannot be sent as JSON; nothing was written.
        """
        if self._channel.disconnect_cause is not None:
            # A request written now could only be lost: refusing it proves that the server did not run it.
            raise anyio.ClosedResourceError
        body = _encoded(item.message)
        record = self._channel.note_request(item.message) if isinstance(item.message, JSONRPCRequest) else None
        try:
            with anyio.move_on_after(_write_timeout(item.message)):
                await self._sink.send(Outgoing(item, body, record))
                self._channel.note_reply(item.message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if self._channel.is_open:
                # Nobody will take a message any more: a connection that still seemed to stand would lose every call.
                self._channel.mark_lost(DisconnectCause("no longer accepts messages"))
            raise

    async def aclose(self) -> None:
        """Close the stream."""
        await self._sink.aclose()


def _encoded(message: JSONRPCMessage) -> bytes:
    """Return a message as JSON. An error in the writer would take the wire down."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except PydanticSerializationError:
        if not isinstance(message, JSONRPCError):
            raise  # to the caller; a result comes back as an error to be sent instead
        plain = JSONRPCError(
            jsonrpc="2.0", id=message.id, error=ErrorData(code=INTERNAL_ERROR, message="Internal error")
        )
        return plain.model_dump_json(by_alias=True, exclude_unset=True).encode()


def _write_timeout(message: Any) -> float:
    """Return the seconds for which a message may wait for the wire."""
    if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
        return CANCEL_NOTIFICATION_TIMEOUT
    return math.inf
