"""Streams of changes over HTTP: a tool that is added appears, and an idle server that dies is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import PATIENCE, eventually
from helpers.http import arrival, arrived, fault, given_up, raw_server, sdk_server
from mcp_pool import BackingOff, HttpServer, MCPPool, RestartPolicy, SseServer
from servers.tcp_proxy import tcp_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from mcp_pool import ServerConfig

SOON = RestartPolicy(initial_delay=0.05, multiplier=1)


@pytest.mark.parametrize("wire", ["modern", "legacy", "sse"])
async def test_a_tool_that_is_added_appears_without_a_refresh(wire: str) -> None:
    async with sdk_server("--growing") as server, MCPPool() as pool:
        spec: ServerConfig = HttpServer(server.url, mode="legacy" if wire == "legacy" else "auto")
        await pool.connect("s", SseServer(server.sse_url) if wire == "sse" else spec)
        await pool.call_tool("s__grow", {"name": "more"})
        await eventually(lambda: "s__more" in pool.tools)
        assert (await pool.call_tool("s__more")).content


async def test_the_death_of_an_idle_modern_server_is_noticed_because_its_stream_ends() -> None:
    async with sdk_server("--growing") as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, restart=SOON))
        await server.kill()
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))


async def test_a_reconnect_to_a_modern_server_costs_one_listing_and_no_discovery(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with sdk_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url))
        info = pool.server("s").info
        first = len(arrived(ledger))
        await pool.server("s").restart()
        assert pool.server("s").info == info
        await anyio.wait_all_tasks_blocked()
        methods = [line["method"] for line in arrived(ledger)[first:]]
        assert methods.count("tools/list") == 1
        assert "server/discover" not in methods


@pytest.mark.parametrize(("status", "is_final"), [(405, True), (429, False), (503, False)])
async def test_a_stream_that_meets_an_outage_is_tried_again_and_one_that_is_refused_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, *, is_final: bool
) -> None:
    monkeypatch.setattr("mcp_pool.connection.change_stream.MIN_DELAY", 0.01)
    monkeypatch.setattr("mcp_pool.connection.connect.LISTEN_TIMEOUT", 0.01)
    ledger = tmp_path / "ledger"
    faults = [fault("status", status, on="subscriptions/listen")]
    policy = RestartPolicy(initial_delay=0)
    async with (
        raw_server("--modern", "--list-changed", ledger=ledger, faults=faults) as server,
        MCPPool({"s": HttpServer(server.url, restart=policy)}) as pool,
    ):
        await eventually(lambda: len(arrived(ledger, "subscriptions/listen")) >= (1 if is_final else 3))
        await pool.call_tool("s__echo", {"text": "on"})
        assert (len(arrived(ledger, "subscriptions/listen")) == 1) is is_final
        assert pool.server("s").generation == 1


async def test_a_server_that_does_not_know_streams_is_asked_once_for_each_connection(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server("--modern", "--list-changed", ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url))
        await pool.server("s").restart()
        await pool.call_tool("s__echo", {"text": "on"})
        assert len(arrived(ledger, "subscriptions/listen")) == 2


async def test_a_proxy_that_cuts_an_idle_stream_costs_one_probe_and_another_listing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with sdk_server("--growing", ledger=ledger) as server, tcp_proxy(server.port) as proxy, MCPPool() as pool:
        await pool.connect("s", HttpServer(f"http://127.0.0.1:{proxy.port}/mcp", restart=SOON))
        first = len(arrived(ledger))
        (stream,) = proxy.carrying(b"subscriptions/listen")
        stream.cut()
        await eventually(lambda: len(proxy.carrying(b"subscriptions/listen")) == 2)
        await arrival(ledger, "tools/list", count=2)
        await arrival(ledger, "server/discover", count=2)
        await pool.call_tool("s__grow", {"name": "more"})
        await eventually(lambda: "s__more" in pool.tools)
        methods = [line["method"] for line in arrived(ledger)[first:]]
        assert methods.count("server/discover") == 1
        assert methods.count("subscriptions/listen") == 1
        assert pool.server("s").generation == 1


async def test_an_outage_of_the_stream_is_not_a_refusal(tmp_path: Path) -> None:
    ledger, outage = tmp_path / "ledger", [fault("status", 503, on="subscriptions/listen", times=2)]
    async with raw_server("--modern", "--list-changed", ledger=ledger, faults=outage) as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, restart=SOON))
        await arrival(ledger, "subscriptions/listen", count=3)  # the third is answered with "method not found"
        await pool.call_tool("s__echo", {"text": "on"})
        assert len(arrived(ledger, "subscriptions/listen")) == 3
        assert pool.server("s").generation == 1


async def test_a_stream_that_is_never_confirmed_delays_neither_the_connection_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_pool.connection.connect.LISTEN_TIMEOUT", 0.01)
    ledger, silence = tmp_path / "ledger", [fault("silent", on="subscriptions/listen")]
    async with raw_server("--modern", "--list-changed", ledger=ledger, faults=silence) as server:
        with anyio.fail_after(PATIENCE):
            async with MCPPool() as pool:
                await pool.connect("s", HttpServer(server.url, restart=SOON))
                await pool.call_tool("s__echo", {"text": "on"})
        await eventually(lambda: [line["method"] for line in given_up(ledger)] == ["subscriptions/listen"])
