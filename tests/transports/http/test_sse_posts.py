"""How long a server may take to accept a POST over SSE: as long as the caller waits; other messages have a timeout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest

from helpers.calls import Outcome, words
from helpers.clock import virtual_backends
from helpers.memory import PLACE, InMemory, OverSse
from mcp_pool import CallTimeout, ConnectionLost, MCPPool, RestartPolicy, SseServer
from mcp_pool.transports.channel import CallRecord, Channel
from mcp_pool.transports.http import sse
from mcp_pool.transports.http.client import current_message
from mcp_pool.transports.tracked_streams import Outgoing

if TYPE_CHECKING:
    from loguru import Message

HOUR = 3600.0
NEVER = RestartPolicy.never()


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def spec(server: InMemory, **fields: Any) -> SseServer:
    """The spec of the server."""
    lent = httpx2.AsyncClient(transport=server)  # in memory there is nothing to close
    return SseServer(f"{PLACE}/sse", http_client=lent, **{"restart": RestartPolicy(initial_delay=0.1), **fields})


def is_(message: dict[str, Any], method: str) -> bool:
    return message.get("method") == method


async def forever(message: dict[str, Any], *methods: str) -> None:
    """Never accept messages of these kinds."""
    if message.get("method") in methods:
        await anyio.sleep_forever()


@pytest.mark.parametrize("tells", [True, False], ids=["own transport", "silent transport"])
async def test_a_server_may_accept_a_post_only_when_it_has_answered_the_call(tells: bool) -> None:
    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        await anyio.sleep(HOUR if message.get("params", {}).get("arguments", {}).get("long") else 0)
        return None

    server = OverSse(take, tells=tells)
    async with MCPPool(call_timeout=None, max_call_time=None) as pool:
        await pool.connect("s", spec(server))
        long = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(long.of, pool.call_tool, "s__work", {"long": True})
            await anyio.sleep(HOUR / 2)
            assert words(await pool.call_tool("s__work", {})) == "done"
            assert not long.ended.is_set()
        assert words(long.value) == "done"
        assert pool.server("s").generation == 1
    assert server.count("tools/call") == 2


@pytest.mark.parametrize("tells", [True, False], ids=["own transport", "silent transport"])
async def test_a_call_whose_post_was_not_accepted_is_cancelled_and_its_post_ends_soon(tells: bool) -> None:
    async def take(message: dict[str, Any]) -> None:
        await forever(message, "tools/call")

    server = OverSse(take, tells=tells)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server))
        with pytest.raises(CallTimeout) as caught:
            await pool.call_tool("s__work", timeout=100)
        assert caught.value.may_have_run
        await anyio.sleep(sse.CANCEL_WAIT + 0.1)
        assert server.count("notifications/cancelled") == 1
        assert server.open == tells  # otherwise it might not have been sent yet, and must not be sent any more
        await anyio.sleep(sse.POST_TIMEOUT)
        assert server.open == 0
        assert pool.server("s").generation == 1
    assert server.count("tools/call") == 1


@pytest.mark.parametrize("steps", range(1, 25))
async def test_a_server_has_nothing_left_to_do_whenever_its_call_is_cancelled(steps: int) -> None:
    async def take(message: dict[str, Any]) -> None:
        await forever(message, "tools/call")

    server = OverSse(take)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server))
        async with anyio.create_task_group() as group:
            group.start_soon(pool.call_tool, "s__work")
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await anyio.sleep(sse.CANCEL_WAIT + 0.1)
        assert server.count("tools/call") <= server.count("notifications/cancelled") <= 1
        assert pool.server("s").generation == 1


async def test_a_call_that_ends_before_its_post_starts_is_not_posted() -> None:
    async def forward(_request: httpx2.Request) -> httpx2.Response:
        raise AssertionError

    channel = Channel(tracked=True)
    record = CallRecord(channel, anyio.CancelScope(), requests_sent=1, done=True)
    message = SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call"))
    token = current_message.set(Outgoing(message, b"{}", record))
    try:
        async with anyio.create_task_group() as group:
            stream = sse.SseStream("s", channel, sse.MAX_EVENT_SIZE, sse.Endpoint(f"{PLACE}/sse", channel))
            wire = sse._SseWire("s", channel, stream)
            wire.background = group
            assert (await wire.send(httpx2.Request("POST", PLACE), forward)).status_code == 202
    finally:
        current_message.reset(token)


async def test_a_post_that_is_answered_but_not_accepted_ends_soon() -> None:
    async def take(message: dict[str, Any]) -> None:
        if "id" in message:
            server.answer(message)
        await anyio.sleep_forever()

    server = OverSse(take)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server, connect_timeout=60, health=None))
        for _ in range(3):
            assert words(await pool.call_tool("s__work")) == "done"
        assert await pool.server("s").client.call_tool("work")
        await anyio.sleep(sse.POST_TIMEOUT + 0.1)
        assert server.open == 0
        assert pool.server("s").generation == 1


async def test_a_notification_that_is_not_accepted_is_dropped_and_logged(record_logs: list[Message]) -> None:
    async def take(message: dict[str, Any]) -> None:
        if not message.get("params", {}).get("arguments"):
            await forever(message, "tools/call", "notifications/cancelled")

    server = OverSse(take)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server))
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__work", timeout=1)
        await anyio.sleep(sse.POST_TIMEOUT + sse.CANCEL_WAIT)
        assert [message for message in record_logs if "'s': messages not accepted in time: 1" in message]
        assert server.open == 0
        assert words(await pool.call_tool("s__work", {"quick": True})) == "done"
        assert pool.server("s").generation == 1


async def test_a_call_that_an_untraced_transport_may_have_sent_is_never_sent_again() -> None:
    """Its POST is in flight when the connection is lost, and nobody knows whether it was sent."""

    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        await forever(message, "tools/call")
        if is_(message, "resources/list"):
            raise httpx2.ReadError("gone")
        return None

    server = OverSse(take, tells=False)
    async with MCPPool(wait_timeout=10) as pool:
        await pool.connect("s", spec(server))
        call = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, pool.call_tool, "s__work")
            await anyio.sleep(1)
            with pytest.raises(Exception, match="closed|lost|refused"):
                await pool.server("s").client.list_resources()
        assert isinstance(call.error, ConnectionLost)
        assert call.error.may_have_run
    assert server.count("tools/call") == 1
