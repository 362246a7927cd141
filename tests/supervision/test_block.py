"""The block: how it is left, what cancels it, and in which order things end."""

from __future__ import annotations

import anyio
import pytest

from helpers.common import alive, eventually, scripted, started
from mcp_pool import ConnectionStatus, InProcessServer, MCPPool, PoolClosed
from servers import read_lines
from servers.in_process import calculator

SOON = 20.0
"""Seconds: an upper bound for something that takes a moment."""


async def outlast_cancellation(pool: MCPPool, tool: str, record: list[str]) -> None:
    """Act as a body that waits forever and makes a last call when it is cancelled."""
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            result = await pool.call_tool(tool, {"text": "goodbye"}, timeout=SOON)
            record.append(result.content[0].text)


async def test_a_function_can_return_a_value_from_inside_the_block() -> None:
    async def body() -> int:
        async with MCPPool() as pool:
            await pool.connect("calculator", InProcessServer(calculator()))
            return 42

    assert await body() == 42


async def test_a_loop_can_continue_from_inside_the_block() -> None:
    turns = []
    for turn in range(3):
        async with MCPPool({"calculator": InProcessServer(calculator())}) as pool:
            turns.append(turn)
            continue
    assert turns == [0, 1, 2]
    assert not pool.servers


async def test_after_the_block_reads_are_empty_and_everything_else_says_that_the_pool_is_closed() -> None:
    async with MCPPool({"calculator": InProcessServer(calculator())}) as pool:
        assert pool.connected_count == 1

    assert (pool.connected_count, pool.get_all_statuses(), dict(pool.servers), dict(pool.tools)) == (0, {}, {}, {})
    assert pool.get_status("calculator") is None
    assert not pool.snapshot().servers
    with pytest.raises(PoolClosed):
        pool.cancel()
    with pytest.raises(PoolClosed):
        await pool.close_all()
    with pytest.raises(PoolClosed):
        pool.add("calculator", InProcessServer(calculator()))


async def test_a_second_attempt_to_open_a_pool_does_not_disturb_the_first() -> None:
    async with MCPPool({"calculator": InProcessServer(calculator())}) as pool:
        with pytest.raises(RuntimeError):
            await pool.__aenter__()
        assert pool.connected_count == 1
    with pytest.raises(PoolClosed):
        await pool.__aenter__()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_when_the_block_is_cancelled_the_body_can_still_call_and_the_connection_ends_after_it(mode: str) -> None:
    record: list[str] = []
    with anyio.CancelScope() as outer:
        async with MCPPool({"calculator": InProcessServer(calculator(record), mode=mode)}) as pool:
            outer.cancel()
            await outlast_cancellation(pool, "calculator__echo", record)
    assert outer.cancelled_caught
    assert record == ["started", "goodbye", "stopped"]


async def test_when_the_block_is_cancelled_a_server_process_keeps_serving_until_the_body_ends(tmp_path) -> None:
    record: list[str] = []
    server = scripted("--ledger", tmp_path / "ledger", "--pid-file", tmp_path / "pids")
    with anyio.CancelScope() as outer:
        async with MCPPool({"server": server}) as pool:
            outer.cancel()
            await outlast_cancellation(pool, "server__echo", record)
            assert alive(tmp_path / "pids")
    assert record == ["goodbye"]
    assert read_lines(tmp_path / "ledger")[-1]["tool"] == "echo"
    assert len(started(tmp_path / "pids")) == 1
    assert not alive(tmp_path / "pids")


async def test_a_deadline_around_the_block_raises_a_timeout() -> None:
    record: list[str] = []
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.2):
            async with MCPPool() as pool:
                with anyio.CancelScope(shield=True):  # the deadline is for the body
                    await pool.connect("calculator", InProcessServer(calculator(record)))
                await outlast_cancellation(pool, "calculator__echo", record)
    assert record == ["started", "goodbye", "stopped"]


async def test_a_deadline_that_passes_while_the_block_opens_leaves_nothing(tmp_path) -> None:
    server = scripted("--never-answer", "--pid-file", tmp_path / "pids", close_timeout=0.2)
    pool = MCPPool({"server": server}, open_timeout=None)
    opening = anyio.CancelScope()
    async with anyio.create_task_group() as group:

        async def open_the_block() -> None:
            with opening:
                async with pool:
                    pytest.fail("it opened")

        group.start_soon(open_the_block)
        await eventually(lambda: started(tmp_path / "pids"))
        opening.cancel()
    assert opening.cancelled_caught
    assert not alive(tmp_path / "pids")
    assert not pool.get_all_statuses()


async def test_a_block_that_is_entered_by_a_cancelled_task_leaves_nothing() -> None:
    record: list[str] = []
    pool = MCPPool({"calculator": InProcessServer(calculator(record))})
    reached = False
    with anyio.CancelScope() as outer:
        outer.cancel()
        async with pool:
            await anyio.lowlevel.checkpoint()
            reached = True
    assert outer.cancelled_caught
    assert not reached
    assert record.count("started") == record.count("stopped")
    with pytest.raises(PoolClosed):
        pool.cancel()


async def test_the_block_swallows_the_cancellation_from_cancel() -> None:
    record: list[str] = []
    async with MCPPool({"calculator": InProcessServer(calculator(record))}) as pool:
        pool.cancel()
        await outlast_cancellation(pool, "calculator__echo", record)
    record.append("continued")
    await anyio.lowlevel.checkpoint()
    assert record == ["started", "goodbye", "stopped", "continued"]


async def test_cancel_may_be_called_twice() -> None:
    async with MCPPool() as pool:
        pool.cancel()
        pool.cancel()
        await anyio.sleep_forever()
    await anyio.lowlevel.checkpoint()


async def test_cancel_may_be_called_when_there_is_nothing_left_to_cancel() -> None:
    async with MCPPool() as pool:
        pool.cancel()
    await anyio.lowlevel.checkpoint()


async def test_cancel_may_be_called_from_another_task() -> None:
    record: list[str] = []
    async with anyio.create_task_group() as group:
        async with MCPPool({"calculator": InProcessServer(calculator(record))}) as pool:

            async def cancel() -> None:
                pool.cancel()

            group.start_soon(cancel)
            await outlast_cancellation(pool, "calculator__echo", record)
        record.append("continued")
    assert record == ["started", "goodbye", "stopped", "continued"]


async def test_cancel_may_be_called_while_the_block_opens(tmp_path) -> None:
    server = scripted("--never-answer", "--pid-file", tmp_path / "pids", close_timeout=0.2)
    pool = MCPPool({"server": server}, open_timeout=None)
    reached = []

    async def open_the_block() -> None:
        async with pool:
            reached.append("body")
            await anyio.sleep_forever()
        reached.append("behind the block")

    async with anyio.create_task_group() as group:
        group.start_soon(open_the_block)
        await eventually(lambda: started(tmp_path / "pids"))
        pool.cancel()
    assert reached == ["body", "behind the block"]
    assert not alive(tmp_path / "pids")


async def test_cancel_does_not_swallow_a_cancellation_from_outside() -> None:
    went_on = False
    with anyio.CancelScope() as outer:
        async with MCPPool() as pool:
            pool.cancel()
            outer.cancel()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        went_on = True
    assert not went_on
    assert outer.cancelled_caught


async def test_cancel_before_the_block_is_refused() -> None:
    pool = MCPPool()
    with pytest.raises(PoolClosed):
        pool.cancel()
    async with pool:
        await anyio.lowlevel.checkpoint()


async def test_calls_of_other_tasks_end_when_the_block_does() -> None:
    ended: list[Exception] = []

    async def call() -> None:
        try:
            await pool.call_tool("calculator__sleep", {"seconds": 3600})
        except Exception as error:
            ended.append(error)

    async with anyio.create_task_group() as group, MCPPool({"calculator": InProcessServer(calculator())}) as pool:
        group.start_soon(call)
        await eventually(lambda: pool.snapshot().calls_in_flight)
    assert [type(error).__name__ for error in ended] == ["ConnectionLost"]


async def test_waits_of_other_tasks_end_when_the_block_does() -> None:
    ended: list[Exception] = []

    async def attempt(operation, *arguments) -> None:
        try:
            await operation(*arguments)
        except Exception as error:
            ended.append(error)

    server = scripted("--never-answer", close_timeout=0.2)
    async with anyio.create_task_group() as group, MCPPool() as pool:
        group.start_soon(attempt, pool.connect, "server", server)
        await eventually(lambda: pool.get_status("server") is ConnectionStatus.CONNECTING)
        group.start_soon(attempt, pool.wait_ready, "server")
        group.start_soon(attempt, pool.server("server").call_tool, "echo")
        await anyio.wait_all_tasks_blocked()
    assert sorted(type(error).__name__ for error in ended) == ["ConnectError", "ServerUnavailable", "ServerUnavailable"]
