"""What is sent is encoded in the task of the sender, and the end of what is received is a loss."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse
from pydantic_core import PydanticSerializationError

from mcp_pool.transports.channel import Channel, DisconnectCause
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream


class Recording:
    """Takes messages."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def send(self, item: Outgoing) -> None:
        self.bodies.append(item.body)

    async def aclose(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "message",
    [
        JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call", params={"arguments": object()}),
        JSONRPCResponse(jsonrpc="2.0", id=1, result={"content": object()}),
    ],
    ids=["request", "result"],
)
async def test_a_message_that_is_not_json_raises_in_its_sender_and_nothing_is_sent(message: Any) -> None:
    sink, channel = Recording(), Channel(True)
    with pytest.raises(PydanticSerializationError):
        await TrackedWriteStream(sink, channel).send(SessionMessage(message))
    assert sink.bodies == []
    assert channel.disconnect_cause is None


async def test_an_error_whose_data_is_not_json_is_sent_without_it() -> None:
    sink = Recording()
    error = ErrorData(code=-32603, message="secret", data=object())
    await TrackedWriteStream(sink, Channel(True)).send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=1, error=error)))
    assert sink.bodies == [b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Internal error"}}']


@pytest.mark.parametrize("known", [None, DisconnectCause("exited")], ids=["unknown", "known"])
async def test_the_end_of_the_messages_is_a_loss_unless_the_cause_is_known(known: DisconnectCause | None) -> None:
    channel = Channel(True)
    writer, source = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    with writer, source:
        if known is not None:
            channel.mark_lost(known)
        writer.close()
        assert [item async for item in TrackedReadStream(source, channel)] == []
    cause = channel.disconnect_cause
    assert cause is not None
    assert cause.what == ("can no longer be read: its stream of messages has ended" if known is None else "exited")


async def test_a_reader_that_the_pool_closes_is_no_loss() -> None:
    channel = Channel(True)
    writer, source = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    with writer:
        async with TrackedReadStream(source, channel) as reader:
            pass
        with pytest.raises(anyio.ClosedResourceError):
            await reader.receive()
    assert channel.disconnect_cause is None
