"""Notifications and answers to the server over HTTP: no answer is lost, no call waits for one, and drops are logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.calls import Outcome, words
from helpers.clock import virtual_backends
from helpers.memory import PLACE, STREAM, OverHttp, Streamed, event, result_of
from mcp_pool import CallTimeout, ConnectionLost, HttpServer, MCPPool, RestartPolicy
from mcp_pool.transports.http import notifications

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from loguru import Message

REQUESTS = 3 * notifications.MAX_NOTIFICATIONS


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def spec(server: OverHttp) -> HttpServer:
    """The spec of the server."""
    lent = httpx2.AsyncClient(transport=server)
    return HttpServer(f"{PLACE}/mcp", http_client=lent, mode="legacy", restart=RestartPolicy.never())


def asking(count: int, take_answer: Callable[[], Awaitable[None]]) -> OverHttp:
    """A server that sends requests during a call with arguments, which it answers 100 seconds later."""

    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        if "method" not in message:
            await take_answer()
        elif message.get("params", {}).get("arguments"):
            return httpx2.Response(200, headers=STREAM, stream=Streamed(ask(message)))
        return None

    async def ask(message: dict[str, Any]) -> AsyncGenerator[bytes]:
        for number in range(count):
            yield event({"jsonrpc": "2.0", "id": f"q{number}", "method": "ping"})
        await anyio.sleep(100)
        yield event(result_of(message))

    return OverHttp(take)


async def test_answers_to_a_server_are_all_sent_a_few_at_a_time_and_delay_no_call() -> None:
    most = 0

    async def take_answer() -> None:
        nonlocal most
        most = max(most, server.open - 1)  # apart from the call itself
        await anyio.sleep(1)

    server = asking(REQUESTS, take_answer)
    async with MCPPool(call_timeout=200) as pool:
        await pool.connect("s", spec(server))
        call = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, pool.call_tool, "s__work", {"ask": True})
            await anyio.sleep(0.5)
            begun = anyio.current_time()
            assert words(await pool.call_tool("s__work")) == "done"
            assert anyio.current_time() == begun
        assert words(call.value) == "done"
        assert pool.server("s").generation == 1
    answers = [message["id"] for message in server.seen if "method" not in message]
    assert sorted(answers) == sorted(f"q{number}" for number in range(REQUESTS))
    assert most <= notifications.MAX_NOTIFICATIONS


async def test_answers_that_a_server_does_not_accept_in_time_are_logged(record_logs: list[Message]) -> None:
    server = asking(2, anyio.sleep_forever)
    async with MCPPool(call_timeout=200) as pool:
        await pool.connect("s", spec(server))
        assert words(await pool.call_tool("s__work", {"ask": True})) == "done"
    told = [message for message in record_logs if "not accepted in time" in message]
    assert len(told) == 2  # the first at once, the rest after the interval
    assert all("'s': notifications and answers not accepted in time: 1" in message for message in told)


async def test_a_server_that_keeps_sending_requests_without_accepting_answers_over_http_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifications, "MAX_OPEN_SERVER_REQUESTS", REQUESTS)
    server = asking(REQUESTS + 1, anyio.sleep_forever)
    async with MCPPool(call_timeout=200) as pool:
        await pool.connect("s", spec(server))
        with pytest.raises(ConnectionLost, match=f"sent {REQUESTS} requests without accepting the answers") as caught:
            await pool.call_tool("s__work", {"ask": True})
        assert caught.value.may_have_run


async def test_dropped_notifications_are_logged(record_logs: list[Message]) -> None:
    async def take(message: dict[str, Any]) -> None:
        if message.get("method") in ("tools/call", "notifications/cancelled"):
            await anyio.sleep_forever()

    more = 5

    async def give_up() -> None:
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__work", timeout=1)

    server = OverHttp(take)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server))
        async with anyio.create_task_group() as group:
            for _ in range(notifications.MAX_NOTIFICATIONS + more):
                group.start_soon(give_up)
    assert server.count("notifications/cancelled") == notifications.MAX_NOTIFICATIONS
    words = " notifications dropped because earlier ones have not been accepted yet: "
    counts = [message.record["message"].partition(words)[2] for message in record_logs]
    told = [int(count) for count in counts if count]
    assert told == [1, more - 1]
