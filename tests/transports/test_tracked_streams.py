"""What is sent is encoded in the task of the sender."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse
from pydantic_core import PydanticSerializationError

from mcp_pool.transports.channel import Channel
from mcp_pool.transports.tracked_streams import Outgoing, TrackedWriteStream


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
