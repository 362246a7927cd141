"""Cancelled calls over HTTP: the server is told, nothing waits for it, and no request is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.calls import PROTOCOLS, words
from helpers.common import eventually
from helpers.http import arrival, arrived, fault, given_up, raw_server
from helpers.http_calls import in_flight
from mcp_pool import CallTimeout, HttpServer, MCPPool
from mcp_pool.transports.http import notifications
from mcp_pool.transports.http.stream_pace import MAX_DELAY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["json", "stream"])
async def test_cancelled_calls_leave_no_request_behind(
    protocol: tuple[str, ...], options: tuple[str, ...], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(*protocol, *options, ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        await server.misbehave(fault("half_body", "stall", on="tools/call:echo"))
        for tool in ("silent", "silent", "echo"):
            with pytest.raises(CallTimeout):
                await pool.call_tool(f"s__{tool}", timeout=0.1)
        await eventually(
            lambda: (
                sum(gone["method"] == "tools/call" for gone in given_up(ledger)) == len(arrived(ledger, "tools/call"))
            )
        )
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("retry", ["0", "1000000000", "9" * 400])
async def test_calls_that_end_while_their_streams_wait_to_be_resumed_leave_no_task_and_harm_no_other(
    protocol: tuple[str, ...], retry: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(*protocol, "--retry", retry, ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url)}) as pool,
    ):
        rules = [fault("half_stream", "end ids", on="tools/call:silent"), fault("half_stream", on="resume")]
        await server.misbehave(*rules)
        assert words(await pool.call_tool("s__echo", {"text": "before"})) == "before"
        before = tasks()
        for _ in range(3):
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__silent", timeout=0.4)
        await eventually(lambda: tasks() <= before, within=MAX_DELAY / 2)
        assert len([line for line in arrived(ledger, "GET") if line["resume"]]) <= 6
        assert words(await pool.call_tool("s__echo", {"text": "after"})) == "after"
        assert pool.server("s").generation == 1


def tasks() -> set[int]:
    """The ids of all tasks."""
    return {task.id for task in anyio.get_running_tasks()}


@pytest.mark.parametrize(("do", "value"), [("silent", None), ("reset", None), ("status", 500)])
async def test_a_server_that_does_not_accept_a_cancel_notification_delays_no_call(
    do: str, value: Any, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}, close_timeout=1) as pool:
        await server.misbehave(fault(do, value, on="notifications/cancelled"))
        async with in_flight(pool, ledger):
            for number in range(1, 4):
                with pytest.raises(CallTimeout):
                    await pool.call_tool("s__silent", timeout=0.1)
                await arrival(ledger, "notifications/cancelled", count=number)
                assert words(await pool.call_tool("s__echo", {"text": "prompt"})) == "prompt"
            assert not [gone for gone in given_up(ledger) if gone["method"] == "notifications/cancelled"]


async def test_cancel_notifications_in_flight_are_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setattr(notifications, "MAX_NOTIFICATIONS", 3)
    monkeypatch.setattr(notifications, "NOTIFICATION_TIMEOUT", 60)
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}, close_timeout=1) as pool:
        await server.misbehave(fault("silent", on="notifications/cancelled"))
        for number in (1, 2, 3, 3, 3):
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__silent", timeout=0.1)
            await arrival(ledger, "notifications/cancelled", count=number)
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert len(arrived(ledger, "notifications/cancelled")) == 3


async def test_a_call_can_be_cancelled_while_a_ping_checks_its_session(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        rules = [fault("status", 400, on="tools/call:echo", times=1), fault("silent", on="ping", times=1)]
        await server.misbehave(*rules)
        async with in_flight(pool, ledger):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.call_tool, "s__echo")
                await arrival(ledger, "ping")
                group.cancel_scope.cancel()
            await eventually(lambda: "ping" in [gone["method"] for gone in given_up(ledger)])
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


class Leaving(httpx2.Auth):
    """Waits for ever on requests with the word `bad` in them, and raises when it is cancelled."""

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncIterator[httpx2.Request]:
        if b'"bad"' in request.content:
            async with anyio.create_task_group() as group:
                group.start_soon(self.wait)
                await anyio.sleep_forever()
        yield request

    async def wait(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError("in the middle of leaving")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_authorization_flow_that_raises_while_its_call_is_cancelled_is_harmless(
    protocol: tuple[str, ...], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(*protocol, ledger=ledger) as server:
        spec = HttpServer(server.url, auth=Leaving())
        async with MCPPool({"s": spec}) as pool, in_flight(pool, ledger):
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__echo", {"text": "bad"}, timeout=0.1)
            assert words(await pool.call_tool("s__echo", {"text": "good"})) == "good"
            assert pool.server("s").generation == 1
