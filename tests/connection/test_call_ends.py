"""Cancelled calls: the server is told, the connection stays in use, and a late answer is ignored."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import MCPServer

from helpers.calls import PROTOCOLS, Outcome, arrival, calls_of, with_ledger, words
from helpers.common import eventually
from mcp_pool import CallTimeout, InProcessServer, MCPPool
from servers import read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

asyncio_only = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "asyncio+uvloop"],
)
"""asyncio only: `Task.cancel` is native."""
MORE_THAN_A_PIPE_HOLDS = {"text": "x" * 300_000}


async def check_given_up(pool: MCPPool, ledger: Path, calls: int = 1) -> None:
    """Check that the server was told to cancel the ended calls of `hold`, and that the connection still works."""
    await eventually(lambda: sum(line["method"] == "notifications/cancelled" for line in read_lines(ledger)) == calls)
    told = json.loads(words(await pool.call_tool("s__cancelled")))
    assert sorted(told) == sorted(line["id"] for line in read_lines(ledger) if line.get("tool") == "hold")
    assert pool.snapshot().calls_in_flight == 0
    assert pool.server("s").generation == 1
    # The late answers arrive now: each after the end of its call, and before the answer of the call that releases it.
    for key in range(calls):
        assert words(await pool.call_tool("s__release", {"key": str(key)})) == "released"
    assert words(await pool.call_tool("s__echo", {"text": "mine"})) == "mine"
    assert pool.server("s").generation == 1


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_call_that_times_out_leaves_the_connection_in_use(options: Sequence[str], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, *options)}) as pool:
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__hold", {"key": "0"}, timeout=1.5)
        await check_given_up(pool, ledger)


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_call_whose_scope_is_cancelled_leaves_the_connection_in_use(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, *options)}) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.call_tool, "s__hold", {"key": "0"})
            await arrival(ledger, "hold")
            group.cancel_scope.cancel()
        await check_given_up(pool, ledger)


@asyncio_only
async def test_a_call_whose_task_is_cancelled_by_asyncio_leaves_the_connection_in_use(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        call = asyncio.create_task(pool.call_tool("s__hold", {"key": "0"}))
        await arrival(ledger, "hold")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await check_given_up(pool, ledger)


@asyncio_only
async def test_a_call_whose_task_is_cancelled_repeatedly_ends(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        call = asyncio.create_task(pool.call_tool("s__hold", {"key": "0"}))
        await arrival(ledger, "hold")
        while not call.done():
            call.cancel()
            await asyncio.sleep(0)
        assert call.cancelled()
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


@asyncio_only
async def test_an_asyncio_timeout_ends_a_call(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(pool.call_tool("s__hold", {"key": "0"}), 1.5)
        assert not isinstance(caught.value, CallTimeout)
        await check_given_up(pool, ledger)


async def test_many_calls_cancelled_together_are_all_cancelled_on_the_server(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        async with anyio.create_task_group() as group:
            for key in range(20):
                group.start_soon(pool.call_tool, "s__hold", {"key": str(key)})
            await arrival(ledger, "hold", 20)
            group.cancel_scope.cancel()
        await check_given_up(pool, ledger, calls=20)


async def test_a_call_under_a_cancelled_scope_sends_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pool.call_tool("s__echo", {"text": "never"})
        assert scope.cancelled_caught
        assert words(await pool.call_tool("s__pid"))
    assert calls_of(ledger, "echo") == 0


async def test_a_call_may_be_made_under_a_shield_in_a_cancelled_body(tmp_path: Path) -> None:
    answers: list[str] = []
    async with MCPPool({"s": with_ledger(tmp_path / "ledger")}) as pool:
        pool.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                answers.append(words(await pool.call_tool("s__echo", {"text": "goodbye"})))
    assert answers == ["goodbye"]


async def test_calls_to_a_server_that_reads_nothing_can_be_cancelled_without_breaking_it(tmp_path: Path) -> None:
    async with MCPPool({"s": with_ledger(tmp_path / "ledger")}) as pool:
        process = pool.snapshot().servers["s"].process_id
        assert process is not None
        os.kill(process, signal.SIGSTOP)
        try:
            with anyio.fail_after(15):
                for _ in range(3):
                    with pytest.raises(CallTimeout):
                        await pool.call_tool("s__echo", MORE_THAN_A_PIPE_HOLDS, timeout=0.2)
                for _ in range(3):
                    with anyio.move_on_after(0.2):
                        await pool.call_tool("s__echo", MORE_THAN_A_PIPE_HOLDS)
        finally:
            os.kill(process, signal.SIGCONT)
        assert words(await pool.call_tool("s__echo", MORE_THAN_A_PIPE_HOLDS)) == MORE_THAN_A_PIPE_HOLDS["text"]
        assert pool.server("s").generation == 1


async def test_cancelling_one_call_leaves_the_others_alone(tmp_path: Path) -> None:
    ledger, other = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(other.of, pool.call_tool, "s__hold", {"key": "other"})
            await arrival(ledger, "hold")
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__hold", {"key": "0"}, timeout=1.5)
            await pool.call_tool("s__release", {"key": "other"})
        assert words(other.value) == "other"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_in_process_handler_is_cancelled_with_its_call(mode: str) -> None:
    server, begun, left = MCPServer[Any]("s", log_level="WARNING"), anyio.Event(), anyio.Event()

    @server.tool()
    async def wait() -> None:
        """Never answer."""
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            left.set()

    async with MCPPool({"s": InProcessServer(server, mode=mode)}) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.call_tool, "s__wait")
        await begun.wait()
        group.cancel_scope.cancel()
        with anyio.fail_after(15, shield=True):
            await left.wait()
        assert pool.server("s").generation == 1
