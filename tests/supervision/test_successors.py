"""Servers with the same id, one after another, while the first is still closing: there are never two at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.calls import Outcome, arrival
from helpers.common import alive, eventually, scripted, started
from mcp_pool import ConnectError, ConnectionLost, ConnectionStatus, InProcessServer, MCPPool, RestartPolicy
from servers.in_process import calculator, raising_lifespan, slow_lifespan

if TYPE_CHECKING:
    from pathlib import Path

LONG = 60.0


async def test_a_connect_right_after_a_cancelled_one_starts_afresh(tmp_path) -> None:
    pids = tmp_path / "pids"
    hanging = scripted("--never-answer", "--stubborn", "--pid-file", pids, close_timeout=0.3)
    async with MCPPool() as pool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(pool.connect, "server", hanging)
                await eventually(lambda: started(pids))
                scope.cancel()
        assert pool.get_status("server") is ConnectionStatus.DISCONNECTED
        assert alive(pids)
        assert await pool.connect("server", scripted("--pid-file", pids))  # with another config, too
        assert len(started(pids)) == 2
        assert len(alive(pids)) == 1


async def test_a_server_waits_for_its_predecessor_even_if_another_one_came_in_between(tmp_path) -> None:
    pids = tmp_path / "pids"
    stubborn = scripted("--stubborn", "--pid-file", pids, close_timeout=0.5)
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("server", stubborn)
        group.start_soon(pool.disconnect, "server")
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.DISCONNECTED)
        pool.add("server", stubborn)
        assert await pool.disconnect("server")
        assert not alive(pids)  # nothing with this id is left when `disconnect` has returned
        assert len(started(pids)) == 1
        await pool.connect("server", stubborn)
        assert len(alive(pids)) == 1


@pytest.mark.parametrize("drain", [0, LONG], ids=["at once", "in peace"])
async def test_disconnecting_a_successor_also_ends_its_predecessor_when_the_drain_is_over(
    drain: float, tmp_path: Path
) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("server", scripted("--ledger", ledger))
        group.start_soon(held.of, pool.call_tool, "server__sleep", {"seconds": 1 if drain else LONG})
        await arrival(ledger, "sleep")
        group.start_soon(lambda: pool.disconnect("server", drain=LONG))
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.DISCONNECTED)
        pool.add("server", scripted("--ledger", ledger))
        with anyio.fail_after(20):
            await pool.disconnect("server", drain=drain)
        assert held.ended.is_set() or not drain
    assert isinstance(held.error, ConnectionLost) == (not drain)


async def test_servers_of_one_id_never_overlap_however_fast_they_come_and_go(tmp_path) -> None:
    pids = tmp_path / "pids"
    slow = scripted("--slow-exit", 0.05, "--pid-file", pids)
    most = 0
    async with MCPPool() as pool, anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(alive(pids)))
                await anyio.sleep(0.002)  # there are no events for processes; an overlap would last for 0.05 s

        group.start_soon(watch)
        async with anyio.create_task_group() as closing:
            for turn in range(6):
                await pool.connect("server", slow)
                closing.start_soon(*((pool.disconnect, "server") if turn % 2 else (pool.close_all,)))
                await eventually(lambda: pool.get_status("server") is not ConnectionStatus.CONNECTED)
        group.cancel_scope.cancel()
    assert most == 1
    assert len(started(pids)) == 6


async def test_a_successor_replaces_a_closing_server_at_once() -> None:
    record: list[str] = []
    slow, next_one = InProcessServer(slow_lifespan(0.2, record)), InProcessServer(calculator(record))
    async with MCPPool({"server": slow}) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.disconnect, "server")
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.DISCONNECTED)
        pool.add("server", next_one)
        assert pool.get_status("server") is ConnectionStatus.CONNECTING
        await pool.wait_ready("server")
        assert record == ["started", "stopped", "started"]


@pytest.mark.parametrize("how", ["disconnect", "close_all", "end of the block"])
async def test_a_server_that_is_ended_before_its_attempt_is_never_started(how: str, tmp_path) -> None:
    pids = tmp_path / "pids"
    async with MCPPool() as pool:
        pool.add("server", scripted("--pid-file", pids))
        if how == "disconnect":
            await pool.disconnect("server")
        elif how == "close_all":
            await pool.close_all()
    assert not started(pids)


async def test_a_server_that_is_ended_while_it_waits_for_its_predecessor_is_never_started(tmp_path) -> None:
    pids = tmp_path / "pids"
    stubborn = scripted("--stubborn", "--pid-file", pids, close_timeout=0.3)
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("server", stubborn)
        group.start_soon(pool.disconnect, "server")
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.DISCONNECTED)
        pool.add("server", stubborn)
        await pool.close_all()
        assert not alive(pids)
    assert len(started(pids)) == 1


async def test_a_connect_that_waits_for_a_predecessor_fails_when_its_server_is_disconnected(tmp_path) -> None:
    stubborn = scripted("--stubborn", close_timeout=0.3)
    errors: list[ConnectError] = []

    async def connect() -> None:
        with pytest.raises(ConnectError, match="was disconnected while it was connecting") as caught:
            await pool.connect("server", stubborn)
        errors.append(caught.value)

    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("server", stubborn)
        group.start_soon(pool.disconnect, "server")
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.DISCONNECTED)
        group.start_soon(connect)
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.CONNECTING)
        await pool.disconnect("server")
        await eventually(lambda: errors)
    assert errors[0].server_id == "server"


async def test_add_keeps_a_server_whose_connect_is_failing_at_the_same_moment() -> None:
    """Wherever `add` comes between the failure and the end of the child, the server is retried."""
    for ticks in range(12):
        async with MCPPool() as pool, anyio.create_task_group() as group:
            failing = InProcessServer(raising_lifespan(), restart=RestartPolicy(initial_delay=0.001))

            async def connect(pool: MCPPool = pool, failing=failing) -> None:
                with pytest.raises(ConnectError):
                    await pool.connect("server", failing)

            group.start_soon(connect)
            while pool.get_status("server") in (None, ConnectionStatus.CONNECTING):
                await anyio.lowlevel.checkpoint()
            for _ in range(ticks):
                await anyio.lowlevel.checkpoint()
            pool.add("server", failing)
            await eventually(lambda: pool.snapshot().servers["server"].attempt > 1)
