"""asyncio's own cancellation, `task.cancel()`, which bypasses cancel scopes: once, repeatedly, early and late."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.common import alive, eventually, scripted, started
from helpers.steps import Steps, count_children, counted
from mcp_pool import ConnectionLost, ConnectionStatus, InProcessServer, MCPPool
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcp_pool import ServerConfig


def _loops() -> Iterator[Any]:
    yield pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
    if sys.platform != "win32":
        yield pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop")


@pytest.fixture(scope="module", params=list(_loops()))
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Without trio, which has no equivalent."""
    return request.param


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


def stubborn(pids: Path, close_timeout: float = 0.5) -> ServerConfig:
    return scripted("--stubborn", "--pid-file", pids, close_timeout=close_timeout)


class Host:
    """A task that holds a pool open, and how it ended."""

    def __init__(self, servers: dict[str, ServerConfig], **options: Any) -> None:
        self.pool = MCPPool(servers, **options)
        self.record: list[str] = []
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        async with self.pool:
            self.record.append("open")
            try:
                await asyncio.Event().wait()
            finally:
                self.record.append("body ended")
        self.record.append("went on")

    async def opened(self) -> None:
        await eventually(lambda: "open" in self.record)

    async def ends_cancelled(self, *, requests: int) -> None:
        with pytest.raises(asyncio.CancelledError):
            await self.task
        assert self.task.cancelled()
        assert self.task.cancelling() == requests
        assert "went on" not in self.record
        assert not self.pool.get_all_statuses()
        assert not [task for task in asyncio.all_tasks() if "mcp_pool" in task.get_name()]


async def test_a_cancelled_task_ends_its_body_then_its_servers_then_itself(pids: Path) -> None:
    host = Host({f"server {number}": stubborn(pids) for number in range(3)})
    await host.opened()
    assert len(alive(pids)) == 3
    host.task.cancel()
    await host.ends_cancelled(requests=1)
    assert host.record == ["open", "body ended"]
    assert len(started(pids)) == 3
    assert not alive(pids)


async def test_a_task_cancelled_six_times_while_it_closes_stubborn_servers_still_ends_them(
    pids: Path,
) -> None:
    host = Host({f"server {number}": stubborn(pids, close_timeout=1.5) for number in range(3)})
    await host.opened()
    host.task.cancel()
    for _ in range(5):
        await asyncio.sleep(0.04)  # each cancel hits another moment of closing, which takes 1.5 s
        assert not host.task.done()
        host.task.cancel()
    assert alive(pids)  # still closing
    await host.ends_cancelled(requests=6)
    assert not alive(pids)


async def test_a_task_cancelled_six_times_at_once_still_ends_its_servers(pids: Path) -> None:
    host = Host({"server": stubborn(pids)})
    await host.opened()
    for _ in range(6):
        host.task.cancel()
    await host.ends_cancelled(requests=6)
    assert not alive(pids)


async def test_a_task_cancelled_while_its_block_opens_ends_what_it_has_started(pids: Path) -> None:
    server = scripted("--never-answer", "--stubborn", "--pid-file", pids, close_timeout=0.3)
    host = Host({"server": server}, open_timeout=None)
    await eventually(lambda: alive(pids))
    host.task.cancel()
    await host.ends_cancelled(requests=1)
    assert host.record == []
    assert not alive(pids)


async def test_a_task_that_is_cancelled_before_it_runs_starts_nothing(pids: Path) -> None:
    host = Host({"server": stubborn(pids)})
    host.task.cancel()
    await host.ends_cancelled(requests=1)
    assert not started(pids)


async def test_a_task_that_is_cancelled_after_its_body_has_ended_closes_its_servers_and_ends_cancelled(
    pids: Path,
) -> None:
    leaving = asyncio.Event()

    async def run() -> None:
        async with MCPPool({"server": stubborn(pids)}):
            leaving.set()

    task = asyncio.create_task(run())
    await leaving.wait()
    await asyncio.sleep(0.05)  # while it closes; a cancel that comes earlier or later must do the same
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (task.cancelled(), task.cancelling()) == (True, 1)
    assert not alive(pids)


async def test_an_error_of_the_body_is_not_lost_when_the_task_is_cancelled_while_it_closes(pids: Path) -> None:
    leaving, error = asyncio.Event(), ValueError("mine")

    async def run() -> None:
        async with MCPPool({"server": stubborn(pids)}):
            leaving.set()
            raise error

    task = asyncio.create_task(run())
    await leaving.wait()
    await asyncio.sleep(0.05)  # while it closes; a cancel that comes earlier or later must do the same
    task.cancel()
    with pytest.raises(ValueError) as caught:
        await task
    assert caught.value is error
    assert not alive(pids)


async def test_an_asyncio_timeout_around_the_block_raises_a_timeout(pids: Path) -> None:
    connected = False
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as deadline:
            async with MCPPool({"server": stubborn(pids)}) as pool:
                connected = pool.connected_count == 1
                deadline.reschedule(asyncio.get_running_loop().time() + 0.05)
                await asyncio.Event().wait()
    assert connected
    assert task.cancelling() == 0
    assert not alive(pids)


async def test_an_asyncio_timeout_while_the_block_closes_is_raised_when_it_has_closed(pids: Path) -> None:
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as deadline:
            async with MCPPool({"server": stubborn(pids)}):
                deadline.reschedule(asyncio.get_running_loop().time() + 0.05)
    assert task.cancelling() == 0
    assert not alive(pids)


async def test_an_asyncio_task_group_cancels_a_block_when_a_sibling_fails(pids: Path) -> None:
    error = ValueError("a sibling's")
    opened = asyncio.Event()

    async def hold() -> None:
        async with MCPPool({"server": stubborn(pids)}):
            opened.set()
            await asyncio.Event().wait()

    async def fail() -> None:
        await opened.wait()
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            holder = group.create_task(hold())
            group.create_task(fail())
    assert caught.value.exceptions == (error,)
    assert holder.cancelled()
    assert len(started(pids)) == 1
    assert not alive(pids)


async def test_a_task_that_swallows_its_cancellation_after_the_block_continues_normally(
    pids: Path,
) -> None:
    opened = asyncio.Event()

    async def run() -> str:
        with suppress(asyncio.CancelledError):
            async with MCPPool({"server": stubborn(pids)}):
                opened.set()
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        await asyncio.sleep(0)
        async with MCPPool({"calculator": InProcessServer(calculator())}) as pool:
            await pool.call_tool("calculator__add", {"a": 1, "b": 2})
        return "went on"

    task = asyncio.create_task(run())
    await opened.wait()
    task.cancel()
    assert await task == "went on"
    assert task.cancelling() == 0
    assert not alive(pids)


async def test_cancelling_the_pool_and_the_task_at_once_ends_the_task_as_cancelled(pids: Path) -> None:
    host = Host({"server": stubborn(pids)})
    await host.opened()
    host.pool.cancel()
    host.task.cancel()
    await host.ends_cancelled(requests=1)
    assert not alive(pids)


async def test_a_call_in_a_cancelled_task_leaves_the_connection_in_use() -> None:
    async with MCPPool({"server": scripted()}) as pool:
        for _ in range(3):
            task = asyncio.create_task(pool.call_tool("server__sleep", {"seconds": 3600}))
            await eventually(lambda: pool.snapshot().calls_in_flight)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelling() == 1
        assert pool.snapshot().calls_in_flight == 0
        await pool.call_tool("server__echo", {"text": "hello"})
        assert pool.server("server").generation == 1


async def test_a_call_whose_connection_is_lost_does_not_leave_its_task_cancelled() -> None:
    async with MCPPool({"server": scripted()}) as pool:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(ConnectionLost):
            await pool.call_tool("server__kill")
        assert task.cancelling() == 0
        await asyncio.sleep(0)


@pytest.mark.parametrize("operation", ["connect", "disconnect", "close_all"])
async def test_after_an_operation_in_a_cancelled_task_the_same_id_can_connect_again(operation: str, pids: Path) -> None:
    server = stubborn(pids)
    async with MCPPool() as pool:
        if operation == "connect":
            hanging = scripted("--never-answer", "--stubborn", "--pid-file", pids, close_timeout=0.3)
            task = asyncio.create_task(pool.connect("server", hanging))
            await eventually(lambda: alive(pids))
        else:
            await pool.connect("server", server)
            task = asyncio.create_task(pool.disconnect("server") if operation == "disconnect" else pool.close_all())
            await asyncio.sleep(0.05)  # while it closes; a cancel that comes earlier or later must do the same
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.get_status("server") in (ConnectionStatus.DISCONNECTED, None)
        assert await pool.connect("server", server)
        assert len(alive(pids)) == 1


async def test_a_block_is_cancelled_at_each_await_point(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = count_children(monkeypatch)

    async def block() -> None:
        async with MCPPool({"server": InProcessServer(calculator())}) as pool:
            await pool.call_tool("server__add", {"a": 1, "b": 2})

    for number in range(500):
        # At the n-th suspension the block may still end normally: then the task ends at the next one.
        async def run() -> None:
            await counted(steps, block())
            await asyncio.sleep(0)

        task = asyncio.create_task(run())
        steps[:] = [Steps(number, task.cancel)]
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() == steps[0].reached
        assert task.cancelling() == int(steps[0].reached)
        assert not [task for task in asyncio.all_tasks() if "mcp_pool" in task.get_name()]
        if not steps[0].reached:
            break
    assert 5 < number < 499


async def test_the_body_of_a_cancelled_task_can_make_a_last_call_before_its_connections_end() -> None:
    record: list[str] = []
    opened = anyio.Event()

    async def run() -> None:
        async with MCPPool({"calculator": InProcessServer(calculator(record))}) as pool:
            opened.set()
            try:
                await asyncio.Event().wait()
            finally:
                await pool.call_tool("calculator__echo", {"text": "goodbye"})
                record.append("goodbye")

    task = asyncio.create_task(run())
    await opened.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert record == ["started", "goodbye", "stopped"]
