"""`Server`, the handle on one server: what it shows, and what it still shows when the server has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import Client

from helpers.calls import Outcome, answering, arrival, with_ledger, words
from helpers.common import eventually
from mcp_pool import (
    BackingOff,
    Connecting,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    InProcessServer,
    MCPPool,
    PoolClosed,
    Ready,
    RestartPolicy,
    Server,
    ServerUnavailable,
    UnknownServer,
)
from servers.bookshelf import bookshelf
from servers.in_process import calculator, raising_lifespan

if TYPE_CHECKING:
    from pathlib import Path

SLOWLY = RestartPolicy(initial_delay=1000, max_delay=1000)
in_both_protocols = pytest.mark.parametrize("mode", ["auto", "legacy"])


# While the server is in the pool


async def test_a_handle_shows_a_server_that_is_connected() -> None:
    async with MCPPool({"s": answering()}) as pool:
        server = pool.server("s")
        assert server.server_id == "s"
        assert server.status is ConnectionStatus.CONNECTED
        assert isinstance(server.state, Ready)
        assert (server.generation, server.last_error) == (1, None)
        assert repr(server) == "<Server 's' connected>"


async def test_a_handle_shows_a_server_that_is_connecting() -> None:
    async with MCPPool() as pool:
        pool.add("s", answering("--never-answer", close_timeout=0.2))
        server = pool.server("s")
        assert isinstance(server.state, Connecting)
        assert (server.status, server.generation) == (ConnectionStatus.CONNECTING, 0)
        assert (server.client, server.info) == (None, None)
        assert repr(server) == "<Server 's' connecting>"


async def test_a_handle_shows_a_server_that_is_backing_off_and_why() -> None:
    async with MCPPool({"s": answering(restart=SLOWLY)}) as pool:
        server = pool.server("s")
        with pytest.raises(ConnectionLost):
            await server.call_tool("crash")
        assert isinstance(server.state, BackingOff)
        assert (server.status, server.generation) == (ConnectionStatus.ERROR, 1)
        assert isinstance(server.last_error, ConnectionLost)
        assert (server.client, server.info) == (None, None)
        assert repr(server) == "<Server 's' error>"


async def test_a_handle_shows_a_server_that_has_failed() -> None:
    async with MCPPool({"s": InProcessServer(raising_lifespan(), restart=RestartPolicy.never())}) as pool:
        server = pool.server("s")
        assert isinstance(server.state, Failed)
        assert server.state.error is server.last_error
        assert server.status is ConnectionStatus.ERROR


async def test_the_last_error_stays_after_a_reconnect() -> None:
    async with MCPPool({"s": answering(restart=RestartPolicy(initial_delay=0.01))}) as pool:
        server = pool.server("s")
        with pytest.raises(ConnectionLost):
            await server.call_tool("crash")
        await pool.wait_ready()
        assert (server.status, server.generation) == (ConnectionStatus.CONNECTED, 2)
        assert isinstance(server.last_error, ConnectionLost)
        assert server.last_error.generation == 1


@in_both_protocols
async def test_a_handle_shows_what_the_server_says_about_itself(mode: str) -> None:
    async with MCPPool({"s": InProcessServer(bookshelf(), mode=mode)}) as pool:
        info = pool.server("s").info
        assert info is not None
        assert (info.name, info.version, info.instructions) == ("bookshelf", "2.0", "Ask quietly.")
        assert info.capabilities.tools is not None
        assert info.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")


async def test_a_server_with_a_pinned_protocol_version_has_no_name() -> None:
    async with MCPPool({"s": answering("--modern", mode="2026-07-28")}) as pool:
        info = pool.server("s").info
        assert info is not None
        assert (info.name, info.version, info.protocol_version) == (None, None, "2026-07-28")


async def test_a_handle_has_the_client_of_the_current_connection() -> None:
    async with MCPPool({"s": answering()}) as pool:
        server = pool.server("s")
        first = server.client
        assert isinstance(first, Client)
        assert words(await first.call_tool("echo", {"text": "past the pool"})) == "past the pool"
        await server.restart()
        assert server.client is not None
        assert server.client is not first


async def test_the_pool_has_a_read_only_mapping_of_handles_on_all_current_servers() -> None:
    async with MCPPool({"a": InProcessServer(calculator()), "b": InProcessServer(calculator())}) as pool:
        servers: Any = pool.servers
        assert list(servers) == ["a", "b"]
        assert all(isinstance(server, Server) for server in servers.values())
        assert servers["a"] == pool.server("a")
        with pytest.raises(TypeError):
            servers["c"] = servers["a"]
        await pool.disconnect("a")
        assert list(servers) == ["a", "b"]  # a copy
        assert list(pool.servers) == ["b"]


# When the server has left


async def test_the_handle_on_a_server_that_has_left_can_only_be_read() -> None:
    async with MCPPool({"s": answering()}) as pool:
        server = pool.server("s")
        await pool.disconnect("s")
        assert server.status is ConnectionStatus.DISCONNECTED
        assert (server.state, server.generation, server.client, server.info, server.last_error) == (
            None,
            0,
            None,
            None,
            None,
        )
        assert repr(server) == "<Server 's' disconnected>"
        for method in (server.call_tool("echo"), server.list_tools(), server.refresh(), server.restart()):
            with pytest.raises(UnknownServer, match="'s'"):
                await method


async def test_the_handle_on_a_server_that_left_with_an_error_still_shows_it() -> None:
    async with MCPPool({"s": answering(restart=SLOWLY)}) as pool:
        server = pool.server("s")
        with pytest.raises(ConnectionLost):
            await server.call_tool("crash")
        await pool.disconnect("s")
        assert isinstance(server.last_error, ConnectionLost)


async def test_a_handle_refers_to_the_id_not_to_one_server() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        server = pool.server("s")
        await pool.disconnect("s")
        await pool.connect("s", answering())
        assert server == pool.server("s")
        assert (server.status, server.generation) == (ConnectionStatus.CONNECTED, 1)
        assert words(await server.call_tool("pid"))


async def test_after_the_block_a_handle_can_only_be_read() -> None:
    async with MCPPool({"s": answering()}) as pool:
        server = pool.server("s")
    assert server.status is ConnectionStatus.DISCONNECTED
    assert (server.state, server.generation, server.client, server.info, server.last_error) == (
        None,
        0,
        None,
        None,
        None,
    )
    assert repr(server) == "<Server 's' disconnected>"
    for method in (server.call_tool("echo"), server.list_tools(), server.refresh(), server.restart()):
        with pytest.raises(PoolClosed):
            await method
    for outside in (pool.call_tool("s__echo"), pool.read_resource("s", "shelf://ada")):
        with pytest.raises(PoolClosed):
            await outside


async def test_a_handle_shows_a_draining_server_as_closing_with_its_client(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger)}) as pool, anyio.create_task_group() as group:
        server = pool.server("s")
        group.start_soon(pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, "hold")
        group.start_soon(lambda: pool.disconnect("s", drain=30))
        await eventually(lambda: server.status is ConnectionStatus.DISCONNECTED)
        assert repr(server) == "<Server 's' disconnected>"
        client = server.client
        assert client is not None
        with pytest.raises(ServerUnavailable, match="disconnected"):
            await server.call_tool("echo")
        # The connection closes with the last call that it drains for, and does not wait for the response to this one.
        group.start_soon(Outcome().of, client.call_tool, "release", {"key": "a"})


async def test_a_restart_requested_for_an_older_connection_does_nothing() -> None:
    async with MCPPool({"s": answering()}) as pool:
        server = pool.server("s")
        await server.restart(generation=1)
        await server.restart(generation=1)
        assert server.generation == 2
