"""Over HTTP and SSE, what cannot be read fails the call that it answers, or is counted, as over stdio."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import LoggingMessageNotificationParams

from helpers.calls import Outcome, words
from helpers.common import eventually
from helpers.http import ServerProcess, arrival, fault, raw_server
from helpers.http_calls import BOUND
from helpers.unreadable import NO_ANSWERS, READABLE, SPOILT
from mcp_pool import CallTimeout, ClientCallbacks, HttpServer, InvalidResponse, MCPPool, SseServer
from mcp_pool.transports.messages import BOM

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message

WIRES = {"http": (), "stream": ("--stream",), "modern": ("--modern",), "sse": ()}
OTHER_ENCODINGS = {"a byte of another encoding", "bytes of another encoding"}
"""What can be read in an event: bytes that are not UTF-8 are replaced there."""
NULL_ID = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}'
SHORT = 0.5


def config_of(wire: str, server: ServerProcess) -> HttpServer | SseServer:
    """The specification of a server."""
    return SseServer(server.sse_url) if wire == "sse" else HttpServer(server.url)


async def call_spoilt(pool: MCPPool, server: ServerProcess, data: bytes, **options: Any) -> Any:
    """Make a call that is answered by these bytes."""
    await server.misbehave(fault("instead", data.hex(), on="tools/call:echo", times=1))
    return await pool.call_tool("s__echo", {"text": "x"}, **options)


@pytest.mark.parametrize("wire", WIRES)
async def test_an_answer_that_cannot_be_read_fails_its_call_at_once_and_nothing_else(wire: str, tmp_path: Path) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with raw_server(*WIRES[wire], ledger=ledger) as server, MCPPool(call_timeout=60.0) as pool:
        await pool.connect("s", config_of(wire, server))
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, tool="hold")
            for kind, (data, problem) in SPOILT.items():
                if wire in ("stream", "sse") and kind in OTHER_ENCODINGS:
                    assert "\ufffd" in words(await call_spoilt(pool, server, data))
                    continue
                with anyio.fail_after(BOUND), pytest.raises(InvalidResponse) as caught:
                    await call_spoilt(pool, server, data)
                assert problem in caught.value.reason, kind
                assert caught.value.reason.isprintable()
                assert (caught.value.server_id, caught.value.generation, caught.value.may_have_run) == ("s", 1, True)
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        *product(WIRES, ["as it should be", "with error: null"]),
        *product(["http", "modern", "sse"], ["behind a byte order mark"]),
    ],
)
async def test_an_answer_that_can_be_read_is_the_answer(wire: str, kind: str) -> None:
    data = READABLE[kind]
    if wire == "modern":
        data = data.replace(b'"content"', b'"resultType":"complete","content"')
    async with raw_server(*WIRES[wire]) as server, MCPPool(call_timeout=60.0) as pool:
        await pool.connect("s", config_of(wire, server))
        assert words(await call_spoilt(pool, server, data)) == "fine"


@pytest.mark.parametrize("wire", WIRES)
async def test_an_error_without_an_id_fails_the_call_of_its_request(wire: str) -> None:
    async with raw_server(*WIRES[wire]) as server, MCPPool(call_timeout=60.0) as pool:
        await pool.connect("s", config_of(wire, server))
        with anyio.fail_after(BOUND), pytest.raises(MCPError, match="Parse error"):
            await call_spoilt(pool, server, NULL_ID)


async def test_over_sse_an_error_without_an_id_fails_no_call_when_two_are_open(tmp_path: Path) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with raw_server(ledger=ledger) as server, MCPPool(call_timeout=60.0) as pool:
        await pool.connect("s", SseServer(server.sse_url))
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, tool="hold")
            with pytest.raises(CallTimeout, match="sent 1 event that is not JSON-RPC: .*Parse error"):
                await call_spoilt(pool, server, NULL_ID, timeout=SHORT)
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"


async def test_over_sse_a_time_out_tells_of_events_that_could_not_be_read(record_logs: list[Message]) -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", SseServer(server.sse_url))
        for kind, data in NO_ANSWERS.items():
            if kind != "pretty-printed":  # it would be many lines of the stream, and no event
                with pytest.raises(CallTimeout, match="Since the call began, it sent 1 event that is not JSON-RPC: '"):
                    await call_spoilt(pool, server, data, timeout=SHORT)
    told = [message for message in record_logs if "JSON-RPC" in message]
    assert len(told) == 1
    assert "Server 's' sends events that are not JSON-RPC; they are ignored. The first: 'this is not" in told[0]


async def test_over_sse_a_notification_behind_a_byte_order_mark_is_delivered() -> None:
    heard: list[Any] = []

    async def note(params: LoggingMessageNotificationParams) -> None:
        heard.append(params.data)

    data = BOM + b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"psst"}}'
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", SseServer(server.sse_url, callbacks=ClientCallbacks(logging=note)))
        with pytest.raises(CallTimeout):
            await call_spoilt(pool, server, data, timeout=SHORT)
        await eventually(lambda: heard == ["psst"])
