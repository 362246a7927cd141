"""Changing a server: `replace`, and `connect` with another config where the server is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.calls import Outcome, words
from helpers.common import alive, eventually, scripted, started
from mcp_pool import (
    BackingOff,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    InProcessServer,
    MCPPool,
    Ready,
    RestartPolicy,
    StdioServer,
    UnknownServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

SLOW = RestartPolicy(initial_delay=1000, max_delay=1000)
MISSING = StdioServer("no-such-program-anywhere")


async def test_the_new_server_answers_and_the_old_process_has_gone(tmp_path: Path) -> None:
    async with MCPPool({"s": scripted("--pid-file", tmp_path / "pids")}) as pool:
        new = scripted("--modern", "--pid-file", tmp_path / "pids")
        assert await pool.replace("s", new) is True
        assert len(started(tmp_path / "pids")) == 2
        assert len(alive(tmp_path / "pids")) == 1
        assert pool.server("s").config == new
        assert words(await pool.call_tool("s__echo", {"text": "new"})) == "new"


async def test_the_server_keeps_its_place() -> None:
    async with MCPPool({name: InProcessServer(calculator()) for name in "abc"}) as pool:
        before = [entry.server_id for entry in pool.tools.values()]
        await pool.replace("b", InProcessServer(calculator()))
        assert list(pool.servers) == ["a", "b", "c"]
        assert [entry.server_id for entry in pool.tools.values()] == before


async def test_calls_in_flight_may_finish_and_later_ones_wait_for_the_new_server() -> None:
    first, second = Outcome(), Outcome()
    async with MCPPool({"s": InProcessServer(calculator())}) as pool, anyio.create_task_group() as group:
        group.start_soon(first.of, pool.call_tool, "s__sleep", {"seconds": 0.2})
        await eventually(lambda: pool.snapshot().calls_in_flight)
        group.start_soon(pool.replace, "s", InProcessServer(calculator()))
        await anyio.wait_all_tasks_blocked()
        await second.of(pool.server("s").call_tool, "echo", {"text": "later"})
        assert words(second.value) == "later"
        assert first.error is None


async def test_without_drain_calls_in_flight_are_lost() -> None:
    call = Outcome()
    async with MCPPool({"s": InProcessServer(calculator())}) as pool, anyio.create_task_group() as group:
        group.start_soon(call.of, pool.call_tool, "s__sleep", {"seconds": 1000})
        await eventually(lambda: pool.snapshot().calls_in_flight)
        await pool.replace("s", InProcessServer(calculator()), drain=0)
        await call.ended.wait()
        assert isinstance(call.error, ConnectionLost)


async def test_a_new_server_that_fails_stays_with_its_new_config_and_the_error_is_raised() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConnectError, match="no-such-program-anywhere"):
            await pool.replace("s", MISSING)
        assert isinstance(pool.server("s").state, Failed)
        assert pool.server("s").config == MISSING


async def test_an_unknown_id_and_an_invalid_config_disturb_nothing() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(UnknownServer):
            await pool.replace("t", InProcessServer(calculator()))
        with pytest.raises(ConfigError):
            await pool.replace("s", "no spec")
        with pytest.raises(ConfigError):
            await pool.replace("s", InProcessServer(calculator()), drain=-1)
        assert isinstance(pool.server("s").state, Ready)
        assert pool.server("s").generation == 1


async def test_a_server_that_failed_connects_with_another_config() -> None:
    async with MCPPool() as pool:
        pool.add("s", MISSING)
        await eventually(lambda: isinstance(pool.server("s").state, Failed))
        good = InProcessServer(calculator())
        assert await pool.connect("s", good)
        assert (pool.server("s").config, pool.get_status("s")) == (good, ConnectionStatus.CONNECTED)


async def test_a_server_that_is_backing_off_connects_with_another_config() -> None:
    async with MCPPool(restart=SLOW) as pool:
        pool.add("s", scripted("--exit-at-start", 3))
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))
        assert await pool.connect("s", InProcessServer(calculator()))


async def test_a_connected_server_keeps_its_config_when_connected_with_another() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConfigError, match="Call replace"):
            await pool.connect("s", InProcessServer(calculator()))
        assert pool.server("s").generation == 1


async def test_calls_in_flight_are_told_that_the_pool_was_closed() -> None:
    call = Outcome()
    async with anyio.create_task_group() as group:
        async with MCPPool({"s": InProcessServer(calculator())}) as pool:
            group.start_soon(call.of, pool.call_tool, "s__sleep", {"seconds": 1000})
            await eventually(lambda: pool.snapshot().calls_in_flight)
        await call.ended.wait()
    assert isinstance(call.error, ConnectionLost)
    assert "was closed together with all servers of the pool" in call.error.reason


async def test_a_server_that_has_left_has_no_config() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", InProcessServer(calculator()))
        handle = pool.server("s")
        await pool.disconnect("s")
        assert handle.config is None
