"""Any task, any order: servers are connected, used and ended by tasks that know nothing about each other."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import alive, eventually, scripted, started
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import (
    ConnectError,
    ConnectionStatus,
    InProcessServer,
    MCPPool,
    PoolClosed,
    ServerUnavailable,
    StdioServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

IDS = ("one", "two", "three", "four", "five")
ORDERS = {
    "first in, first out": list(IDS),
    "last in, first out": list(reversed(IDS)),
    "shuffled": random.Random(7).sample(IDS, len(IDS)),
}


async def in_a_task(work: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Run something in its own task."""
    async with anyio.create_task_group() as group:
        group.start_soon(work, *arguments)


async def after(checkpoints: int, work: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Run something after this many iterations of the event loop."""
    for _ in range(checkpoints):
        await anyio.lowlevel.checkpoint()
    await work(*arguments)


def mixed(server_id: str, pid_file: Path, record: list[str]) -> StdioServer | InProcessServer:
    """The spec of one of five servers, which are of all kinds."""
    return {
        "one": scripted("--pid-file", pid_file),
        "two": InProcessServer(calculator(record)),
        "three": scripted("--modern", "--pid-file", pid_file),
        "four": InProcessServer(calculator(record), mode="legacy"),
        "five": scripted("--slow-exit", 0.1, "--pid-file", pid_file),
    }[server_id]


@pytest.mark.parametrize("order", ORDERS)
async def test_servers_can_be_disconnected_in_any_order_each_by_its_own_task(tmp_path: Path, order: str) -> None:
    record: list[str] = []
    async with MCPPool() as pool:
        for server_id in IDS:
            await in_a_task(pool.connect, server_id, mixed(server_id, tmp_path / "pids", record))
        remaining = set(IDS)
        for server_id in ORDERS[order]:
            await in_a_task(pool.disconnect, server_id)
            remaining.remove(server_id)
            assert set(pool.servers) == remaining
            assert pool.connected_count == len(remaining)
            for other in remaining:
                assert not (await pool.server(other).call_tool("echo", {"text": "x"})).is_error
        assert not alive(tmp_path / "pids")
        assert record == ["started", "started", "stopped", "stopped"]


@pytest.mark.parametrize("order", ORDERS)
async def test_servers_can_be_disconnected_all_at_once_each_by_its_own_task(tmp_path: Path, order: str) -> None:
    record: list[str] = []
    async with MCPPool() as pool:
        async with anyio.create_task_group() as group:
            for server_id in IDS:
                group.start_soon(pool.connect, server_id, mixed(server_id, tmp_path / "pids", record))
        async with anyio.create_task_group() as group:
            for server_id in ORDERS[order]:
                group.start_soon(pool.disconnect, server_id)
        assert not pool.servers
        assert not alive(tmp_path / "pids")


@pytest.mark.parametrize("ending", ["disconnect", "close_all"])
async def test_one_task_can_connect_a_server_another_use_it_and_a_third_disconnect_it(
    tmp_path: Path, ending: str
) -> None:
    async def end() -> None:
        await (pool.disconnect("one") if ending == "disconnect" else pool.close_all())

    async with MCPPool() as pool:
        await in_a_task(pool.connect, "one", scripted("--pid-file", tmp_path / "pids"))
        await in_a_task(pool.call_tool, "one__echo", {"text": "x"})
        await in_a_task(end)
        assert not pool.servers
        assert not alive(tmp_path / "pids")


async def test_the_task_that_connected_a_server_may_end_before_it(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        async with anyio.create_task_group() as group:

            async def connect_and_stay() -> None:
                await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
                await anyio.sleep_forever()

            group.start_soon(connect_and_stay)
            await eventually(lambda: pool.connected_count == 1)
            group.cancel_scope.cancel()
        assert not (await pool.call_tool("one__echo")).is_error


@pytest.mark.parametrize("first", ["connect", "close_all"])
async def test_connect_and_close_all_can_race(first: str) -> None:
    """Whatever the order, the server is connected in the new child group, or `connect` says that it was not."""
    record: list[str] = []
    outcomes: list[str] = []

    async def connect() -> None:
        try:
            await pool.connect("one", InProcessServer(server))
        except ConnectError:
            outcomes.append("refused")
        else:
            outcomes.append("connected")

    async with MCPPool() as pool:
        for checkpoints in range(25):
            server = calculator(record)
            async with anyio.create_task_group() as group:
                group.start_soon(after, checkpoints if first == "close_all" else 0, connect)
                group.start_soon(after, checkpoints if first == "connect" else 0, pool.close_all)
            if outcomes[-1] == "refused" or not pool.servers:
                assert pool.get_status("one") in (None, ConnectionStatus.DISCONNECTED)
                assert pool.tools == {}
            else:
                assert pool.connected_count == 1
                assert not (await pool.call_tool("one__echo", {"text": "x"})).is_error
            await pool.close_all()
            assert not pool.servers
            assert pool.get_all_statuses() == {}
            assert record.count("started") == record.count("stopped")
    assert "connected" in outcomes


@pytest.mark.parametrize(
    "spec", [scripted("--slow-exit", 0.05), InProcessServer(calculator())], ids=["stdio", "in process"]
)
async def test_add_and_close_all_can_race(spec: StdioServer | InProcessServer) -> None:
    async def add() -> None:
        pool.add("one", spec)

    async with MCPPool() as pool:
        for checkpoints in range(6):
            for first, second in ((add, pool.close_all), (pool.close_all, add)):
                async with anyio.create_task_group() as group:
                    group.start_soon(first)
                    group.start_soon(after, checkpoints, second)
                if pool.servers:
                    await pool.wait_ready("one")
                    assert not (await pool.call_tool("one__echo", {"text": "x"})).is_error
                else:
                    assert pool.tools == {}
            await pool.close_all()
            assert not pool.servers


async def test_connect_add_and_disconnect_can_race_close_all_without_overlapping_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fake wire fails the test if two connections of one id overlap."""
    wire = fake_wire(monkeypatch)
    wire.script = lambda attempt: Life(handshake=0.001, closing=0.002, fails=len(wire.attempts) % 5 == 0)

    async def connect() -> None:
        try:
            await pool.connect("one", FAKE)
        except ConnectError:
            pass

    async def add() -> None:
        pool.add("one", FAKE)

    async def restart() -> None:
        if "one" in pool.servers:
            try:
                await pool.server("one").restart()
            except ConnectError:
                pass

    async def disconnect() -> None:
        await pool.disconnect("one", drain=0)

    chance = random.Random(11)
    async with MCPPool() as pool:
        for _ in range(60):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    work = chance.choice([connect, connect, add, restart, disconnect, disconnect, pool.close_all])
                    group.start_soon(after, chance.randrange(12), work)
            assert len(wire.open) <= 1
        await pool.close_all()
        assert wire.open == []
        assert not pool.servers
    assert len(wire.attempts) > 20


async def test_processes_of_one_id_never_overlap(tmp_path: Path) -> None:
    config = scripted("--slow-exit", 0.15, "--pid-file", tmp_path / "pids")

    async def replace(pool: MCPPool) -> None:
        for _ in range(2):
            await pool.disconnect("one")
            try:
                await pool.connect("one", config)
            except ConnectError:
                pass  # another task has disconnected it meanwhile
            assert len(alive(tmp_path / "pids")) <= 1

    async def watch() -> None:
        while True:
            assert len(alive(tmp_path / "pids")) <= 1
            await anyio.sleep(0.01)  # there are no events for processes; the check itself fails

    async with MCPPool() as pool:
        await pool.connect("one", config)
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(replace, pool)
            watching.cancel_scope.cancel()
    assert len(started(tmp_path / "pids")) > 1
    assert not alive(tmp_path / "pids")


async def test_another_config_can_be_used_right_after_a_disconnect() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.1))
        async with anyio.create_task_group() as group:
            group.start_soon(pool.disconnect, "one")
            await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
            await pool.connect("one", InProcessServer(calculator()))
        assert "one__add" in pool.tools


async def test_calls_and_the_end_of_the_block_can_race() -> None:
    """A call in a task that outlives the block ends with an error, whatever the moment."""
    for checkpoints in range(8):
        errors: list[BaseException] = []
        async with anyio.create_task_group() as outer:

            async def call(pool: MCPPool, into: list[BaseException]) -> None:
                try:
                    while True:
                        await pool.call_tool("one__echo", {"text": "x"})
                except Exception as error:
                    into.append(error)

            async with MCPPool() as pool:
                await pool.connect("one", InProcessServer(calculator()))
                outer.start_soon(call, pool, errors)
                await after(checkpoints, anyio.lowlevel.checkpoint)
        assert len(errors) == 1
        assert isinstance(errors[0], PoolClosed | ServerUnavailable) or type(errors[0]).__name__ == "ConnectionLost"
