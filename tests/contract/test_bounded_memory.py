"""However many servers come and go, memory and the number of tasks stay flat (P9)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import sniffio
import trio

from helpers.fake import FAKE, FakeWire, Life, fake_wire
from mcp_pool import ConnectError, ConnectionStatus, InProcessServer, MCPPool
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def prune_deadlines() -> None:
    """Have the event loop forget the deadlines that were cancelled: it keeps many, and drops all of them at once."""
    oldest: weakref.ref[Any] | None = None
    while oldest is None or oldest() is not None:
        made: Any
        if sniffio.current_async_library() == "trio":
            with trio.CancelScope(deadline=trio.current_time() + 1000) as made:
                await trio.lowlevel.checkpoint()
        else:
            made = asyncio.get_running_loop().call_later(1000, print)
            made.cancel()
            await asyncio.sleep(0)
        oldest = oldest or weakref.ref(made)
        del made


async def grown(
    work: Callable[[int], Awaitable[object]], wire: FakeWire | None = None, *, warm_up: int, times: int
) -> tuple[float, int]:
    """Do something many times; return how many objects and tasks each repetition left behind, after the first ones."""

    async def settle() -> tuple[int, int]:
        await anyio.wait_all_tasks_blocked()
        if wire is not None:
            wire.forget()
        await prune_deadlines()
        gc.collect()
        return len(gc.get_objects()), len(anyio.get_running_tasks())

    for number in range(warm_up):
        await work(number)
    objects, tasks = await settle()
    for number in range(warm_up, warm_up + times):
        await work(number)
    more_objects, more_tasks = await settle()
    return (more_objects - objects) / times, more_tasks - tasks


def remember(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember at most this many servers that have left, and their counts."""
    monkeypatch.setattr("mcp_pool.supervision.registry.REMEMBERED_LIMIT", count)
    monkeypatch.setattr("mcp_pool.supervision.counters.KEPT_LIMIT", count)


async def test_two_thousand_servers_that_come_and_go_leave_only_the_newest_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch)

    async def come_and_go(number: int) -> None:
        pool.add(str(number), FAKE)
        if number % 2:
            await pool.wait_ready(str(number))
        await pool.disconnect(str(number))

    async with MCPPool() as pool:
        objects, tasks = await grown(come_and_go, wire, warm_up=1100, times=300)
        assert objects < 0.5
        assert tasks == 0
        assert not pool.servers
        assert len(pool.get_all_statuses()) == 1024


async def test_servers_that_cannot_be_connected_leave_only_the_newest_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    remember(50, monkeypatch)

    async def fail(number: int) -> None:
        with pytest.raises(ConnectError):
            await pool.connect(str(number), FAKE)

    async with MCPPool() as pool:
        objects, tasks = await grown(fail, wire, warm_up=100, times=200)
        assert objects < 0.5
        assert tasks == 0
        assert len(pool.get_all_statuses()) == 50


async def test_closed_child_groups_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    remember(50, monkeypatch)

    async def fill_and_close(number: int) -> None:
        for server_id in range(3):
            pool.add(f"{number} {server_id}", FAKE)
        await pool.close_all()

    async with MCPPool() as pool:
        objects, tasks = await grown(fill_and_close, wire, warm_up=50, times=200)
        assert objects < 0.5
        assert tasks == 0
        assert pool.get_all_statuses() == {}


async def test_a_server_that_exits_again_and_again_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)

    async def restart(_number: int) -> None:
        await pool.server("one").restart()

    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        objects, tasks = await grown(restart, wire, warm_up=50, times=200)
        assert objects < 0.5
        assert tasks == 0


async def test_an_id_that_is_replaced_again_and_again_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row refers to its predecessor; a chain of all of them would be a leak."""
    wire = fake_wire(monkeypatch, Life(closing=0.001))

    async def replace(_number: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.disconnect, "one")
            while pool.get_status("one") is ConnectionStatus.CONNECTED:
                await anyio.lowlevel.checkpoint()
            await pool.connect("one", FAKE)

    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        objects, tasks = await grown(replace, wire, warm_up=50, times=200)
        assert objects < 0.5
        assert tasks == 0


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_real_clients_that_come_and_go_leave_nothing_behind(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(10, monkeypatch)
    config = InProcessServer(calculator(), mode=mode)

    async def come_and_go(number: int) -> None:
        await pool.connect(str(number), config)
        await pool.server(str(number)).call_tool("echo", {"text": "x"})
        await pool.disconnect(str(number))

    async with MCPPool() as pool:
        objects, tasks = await grown(come_and_go, warm_up=20, times=60)
        assert objects < 1
        assert tasks == 0
