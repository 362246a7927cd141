"""What `disconnect` promises, clause by clause."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.calls import arrival
from helpers.common import alive, eventually, scripted, started
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    UnknownServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message

LONG = 60.0


def warnings(messages: list[Message]) -> list[str]:
    return [message.record["message"] for message in messages if message.record["level"].name == "WARNING"]


async def calling(pool: MCPPool, name: str, seconds: float, into: list[object]) -> None:
    """Call the tool `sleep` and record the outcome."""
    try:
        into.append(await pool.call_tool(name, {"seconds": seconds}))
    except (ConnectionLost, ServerUnavailable, UnknownServer) as error:
        into.append(error)


async def test_disconnect_waits_for_the_end_of_the_server_and_returns_true(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.2, "--pid-file", tmp_path / "pids"))
        assert await pool.disconnect("one") is True
        assert not alive(tmp_path / "pids")
        assert not pool.servers
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED


async def test_disconnecting_an_unknown_id_logs_a_warning_and_returns_false(record_logs: list[Message]) -> None:
    async with MCPPool() as pool:
        assert await pool.disconnect("one") is False
        assert warnings(record_logs) == ["There is no server 'one' to disconnect"]
        assert pool.get_status("one") is None


async def test_disconnecting_a_disconnected_id_logs_a_warning_and_returns_false(record_logs: list[Message]) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        assert await pool.disconnect("one") is True
        assert warnings(record_logs) == []
        assert await pool.disconnect("one") is False
        assert warnings(record_logs) == ["There is no server 'one' to disconnect"]
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED


async def test_calls_in_flight_may_finish() -> None:
    results: list[Any] = []
    async with MCPPool() as pool:
        await pool.connect("one", scripted())
        async with anyio.create_task_group() as group:
            group.start_soon(calling, pool, "one__sleep", 0.25, results)
            await eventually(lambda: pool.snapshot().calls_in_flight == 1)
            await pool.disconnect("one", drain=LONG)
    assert [result.content[0].text for result in results] == ["slept 0.25 s"]


async def test_new_calls_are_refused_while_those_in_flight_finish() -> None:
    results: list[Any] = []
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted())
        handle = pool.server("one")
        group.start_soon(calling, pool, "one__sleep", 2.0, results)
        await eventually(lambda: pool.snapshot().calls_in_flight == 1)
        group.start_soon(pool.disconnect, "one")
        await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
        with pytest.raises(ServerUnavailable):
            await handle.call_tool("echo")
        assert pool.snapshot().servers["one"].calls_in_flight == 1
    assert [result.content[0].text for result in results] == ["slept 2.0 s"]


async def test_calls_that_outlast_the_drain_are_lost(tmp_path: Path) -> None:
    results: list[object] = []
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--ledger", tmp_path / "ledger"))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(calling, pool, "one__sleep", LONG, results)
                await arrival(tmp_path / "ledger", "sleep")
                assert await pool.disconnect("one", drain=0.2) is True
    assert isinstance(results[0], ConnectionLost)
    assert results[0].may_have_run


async def test_a_server_that_exits_during_the_drain_is_disconnected_at_once_and_not_restarted(tmp_path: Path) -> None:
    results: list[object] = []
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--ledger", tmp_path / "ledger", "--pid-file", tmp_path / "pids"))
        async with anyio.create_task_group() as group:
            group.start_soon(calling, pool, "one__sleep", LONG, results)
            await arrival(tmp_path / "ledger", "sleep")
            with anyio.fail_after(LONG / 2):
                async with anyio.create_task_group() as ending:
                    ending.start_soon(lambda: pool.disconnect("one", drain=LONG))
                    await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
                    (process,) = started(tmp_path / "pids")
                    os.kill(process, signal.SIGKILL)
        assert started(tmp_path / "pids") == [process]
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED
    assert isinstance(results[0], ConnectionLost)
    assert "SIGKILL" in str(results[0])


async def test_disconnect_ends_a_server_that_is_connecting(tmp_path: Path) -> None:
    async with MCPPool(connect_timeout=None) as pool, anyio.create_task_group() as group:

        async def connect() -> None:
            with pytest.raises(ConnectError, match="disconnected"):
                await pool.connect("one", scripted("--never-answer", "--pid-file", tmp_path / "pids"))

        group.start_soon(connect)
        await eventually(lambda: started(tmp_path / "pids"))
        assert await pool.disconnect("one") is True
        assert not alive(tmp_path / "pids")
        assert not pool.servers
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED


async def test_disconnect_ends_a_server_that_has_just_been_added() -> None:
    async with MCPPool() as pool:
        pool.add("one", scripted())
        assert await pool.disconnect("one") is True
        assert pool.get_all_statuses() == {"one": ConnectionStatus.DISCONNECTED}
        assert not pool.servers


async def test_disconnect_ends_a_server_that_is_backing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool(restart=RestartPolicy(initial_delay=LONG)) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))
        assert await pool.disconnect("one") is True
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED
        assert len(wire.attempts) == 1


async def test_disconnect_ends_a_server_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(is_final=True))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, Failed))
        assert await pool.disconnect("one") is True
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED


async def test_disconnecting_one_server_leaves_the_others_as_they_are() -> None:
    async with MCPPool() as pool:
        for name in ("one", "two", "three"):
            await pool.connect(name, scripted())
        await pool.disconnect("one")
        assert set(pool.servers) == {"two", "three"}
        assert pool.connected_count == 2
        assert not (await pool.call_tool("two__echo", {"text": "x"})).is_error


async def test_concurrent_disconnects_of_one_id_all_wait_for_its_end(tmp_path: Path) -> None:
    outcomes: list[tuple[bool, list[int]]] = []

    async def disconnect() -> None:
        outcomes.append((await pool.disconnect("one"), alive(tmp_path / "pids")))

    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.2, "--pid-file", tmp_path / "pids"))
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(disconnect)
    assert outcomes == [(True, [])] * 3


async def test_a_disconnect_cancelled_during_the_drain_still_ends_the_server(tmp_path: Path) -> None:
    results: list[object] = []
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
        group.start_soon(calling, pool, "one__sleep", LONG, results)
        await eventually(lambda: pool.snapshot().calls_in_flight == 1)
        with anyio.move_on_after(0.05):
            await pool.disconnect("one", drain=LONG)
        await eventually(lambda: not pool.servers)
        assert not alive(tmp_path / "pids")


async def test_a_disconnect_cancelled_while_the_server_closes_still_ends_it(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.25, "--pid-file", tmp_path / "pids"))
        with anyio.move_on_after(0.05):
            await pool.disconnect("one")
        await eventually(lambda: not pool.servers)
        assert not alive(tmp_path / "pids")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("ending", ["disconnect", "close_all"])
async def test_a_tool_that_ends_its_own_server_does_not_stop_the_disconnect(mode: str, ending: str) -> None:
    record: list[str] = []
    server = calculator(record)

    @server.tool()
    async def end() -> None:
        await (pool.disconnect("one", drain=0) if ending == "disconnect" else pool.close_all())

    async with MCPPool(close_timeout=1) as pool:
        await pool.connect("one", InProcessServer(server, mode=mode))
        await pool.connect("two", InProcessServer(calculator()))
        with anyio.fail_after(20), pytest.raises(ConnectionLost):
            await pool.call_tool("one__end")
        await eventually(lambda: "one" not in pool.servers and record[-1] == "stopped")
        assert pool.connected_count == (1 if ending == "disconnect" else 0)


async def test_the_end_of_a_successor_that_never_connected_waits_for_its_predecessor(tmp_path: Path) -> None:
    """Otherwise a third server with that id would not wait for the first and would connect while it is still running."""
    config = scripted("--slow-exit", 0.4, "--pid-file", tmp_path / "pids")
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", config)
        group.start_soon(pool.disconnect, "one")
        await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
        pool.add("one", config)
        await pool.disconnect("one")
        assert not alive(tmp_path / "pids")
        await pool.connect("one", config)
        assert len(alive(tmp_path / "pids")) == 1
