"""A failure of one server is only its own: others answer as before, and the body continues."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import MCPServer

from helpers.calls import Outcome, answering, arrival, with_ledger, words
from helpers.common import eventually
from mcp_pool import (
    CallTimeout,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    InProcessServer,
    InvalidResponse,
    MCPPool,
    RestartPolicy,
)
from servers.in_process import calculator, raising_lifespan

if TYPE_CHECKING:
    from pathlib import Path

BOUND = 15.0
"""Seconds within which a healthy server answers many calls, even on a slow machine next to a bad server."""
HEALTHY = 30
"""Calls that a healthy server answers meanwhile."""
SOON = RestartPolicy(initial_delay=0.05)


async def check_healthy(pool: MCPPool) -> None:
    """Check that the server `good` answers over its first connection."""
    with anyio.fail_after(BOUND):
        for number in range(HEALTHY):
            assert words(await pool.call_tool("good__echo", {"text": str(number)})) == str(number)
    assert pool.get_status("good") is ConnectionStatus.CONNECTED
    assert pool.server("good").generation == 1


TROUBLES = {
    "exits at once": ("--exit-at-start", "3", "--say", "never again"),
    "never answers": ("--never-answer",),
    "writes garbage": ("--garbage",),
    "floods stderr": ("--flood-stderr",),
    "floods stdout": ("--flood-stdout",),
    "sends a huge line": ("--huge-at-start", "50000000"),
    "refuses the handshake": ("--fail-initialize",),
    "refuses to list": ("--fail-list",),
    "exits at the list": ("--die-at-list",),
    "exits after the list": ("--die-after-list",),
    "lists for ever": ("--repeat-cursor",),
    "goes deaf": ("--close-stdin",),
    "has a grandchild on its pipes": ("--grandchild-holds-pipes",),
    "ignores the end": ("--stubborn",),
}


@pytest.mark.parametrize("options", TROUBLES.values(), ids=TROUBLES)
async def test_a_bad_server_neither_fails_nor_delays_a_good_one_or_the_body(options: tuple[str, ...]) -> None:
    async with MCPPool({"good": answering()}) as pool:
        pool.add("bad", answering(*options, restart=SOON, connect_timeout=1, close_timeout=0.3))
        bad = pool.server("bad")
        await eventually(lambda: bad.generation or bad.last_error)
        await check_healthy(pool)


async def test_a_call_in_flight_on_a_good_server_survives_the_exit_of_the_others(tmp_path: Path) -> None:
    ledger, call = tmp_path / "ledger", Outcome()
    servers: dict[str, Any] = {"good": with_ledger(ledger), "a": answering(), "b": answering(), "c": answering()}
    async with MCPPool(servers) as pool, anyio.create_task_group() as group:
        group.start_soon(call.of, pool.call_tool, "good__hold", {"key": "patience"})
        await arrival(ledger, "hold")
        for name, tool in (("a", "crash"), ("b", "kill")):
            with pytest.raises(ConnectionLost):
                await pool.call_tool(f"{name}__{tool}")
        await pool.disconnect("c")
        assert not call.ended.is_set()
        await pool.call_tool("good__release", {"key": "patience"})
        await call.ended.wait()
        assert words(call.value) == "patience"


async def test_a_call_that_hangs_does_not_delay_calls_to_another_server(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"bad": with_ledger(ledger), "good": answering()}) as pool, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(pool.call_tool, "bad__silent")
        await arrival(ledger, "silent", 10)
        await check_healthy(pool)
        group.cancel_scope.cancel()


async def test_a_call_that_hangs_does_not_delay_other_calls_to_the_same_server(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"good": with_ledger(ledger)}) as pool, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(pool.call_tool, "good__silent")
        await arrival(ledger, "silent", 10)
        await check_healthy(pool)
        group.cancel_scope.cancel()


async def test_writing_to_a_stopped_server_delays_nobody() -> None:
    async with MCPPool({"bad": answering(close_timeout=0.3), "good": answering()}) as pool:
        process = pool.snapshot().servers["bad"].process_id
        assert process is not None
        os.kill(process, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(Outcome().of, pool.call_tool, "bad__echo", {"text": "x" * 300_000})
            await eventually(lambda: pool.snapshot().servers["bad"].calls_in_flight == 5)
            await check_healthy(pool)
            with anyio.fail_after(BOUND):
                await pool.disconnect("bad", drain=0)


async def test_a_huge_answer_fails_only_the_connection_of_its_server() -> None:
    async with MCPPool({"bad": answering(max_message_size=100_000), "good": answering()}) as pool:
        with pytest.raises(ConnectionLost, match="max_message_size=100000"):
            await pool.call_tool("bad__huge", {"bytes": 20_000_000})
        await check_healthy(pool)


async def test_bad_answers_and_silence_of_one_server_do_not_affect_another() -> None:
    async with MCPPool({"bad": answering(), "good": answering()}) as pool:
        with pytest.raises(InvalidResponse):
            await pool.call_tool("bad__bad_result")
        with pytest.raises(CallTimeout):
            await pool.call_tool("bad__silent", timeout=0.1)
        await check_healthy(pool)
        assert pool.server("bad").generation == 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("at_end", [False, True], ids=["at its start", "at its end"])
async def test_a_lifespan_that_raises_a_group_fails_only_its_server(mode: str, *, at_end: bool) -> None:
    group = ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [OSError("two")])])
    bad = InProcessServer(raising_lifespan(at_end=at_end, error=group), mode=mode, restart=RestartPolicy.never())
    async with MCPPool({"bad": bad, "good": answering()}) as pool:
        if not at_end:
            error = pool.server("bad").last_error
            assert isinstance(error, ConnectError)
            assert isinstance(error.cause, ValueError)
        assert await pool.disconnect("bad")
        await check_healthy(pool)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_lifespan_that_never_starts_delays_nobody(mode: str) -> None:
    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> Any:
        await anyio.sleep_forever()
        yield

    bad = InProcessServer(MCPServer[Any]("bad", lifespan=lifespan, log_level="WARNING"), mode=mode, close_timeout=0.3)
    async with MCPPool({"good": answering()}) as pool:
        pool.add("bad", bad)
        await check_healthy(pool)


async def test_many_bad_servers_do_not_disturb_a_good_one() -> None:
    troubles = [options for name, options in TROUBLES.items() if "flood" not in name and "huge" not in name]
    async with MCPPool({"good": answering()}) as pool:
        for number, options in enumerate(troubles):
            pool.add(f"bad {number}", answering(*options, restart=SOON, close_timeout=0.3))
        await check_healthy(pool)
        with anyio.fail_after(BOUND):
            await pool.close_all()
        assert pool.get_all_statuses() == {}


async def test_the_body_is_not_cancelled_by_what_happens_to_a_server() -> None:
    steps: list[str] = []
    async with MCPPool({"bad": answering(restart=SOON), "good": InProcessServer(calculator())}) as pool:
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                await pool.call_tool("bad__crash")
            await anyio.lowlevel.checkpoint()
            steps.append("went on")
    assert steps == ["went on"] * 3


async def test_an_error_of_the_body_during_its_own_calls_leaves_the_block_as_the_same_object(tmp_path: Path) -> None:
    ledger, mine, call = tmp_path / "ledger", ValueError("mine"), Outcome()
    async with anyio.create_task_group() as group:
        with pytest.raises(ValueError, match="mine") as caught:
            async with MCPPool({"s": with_ledger(ledger)}) as pool:
                group.start_soon(call.of, pool.call_tool, "s__silent")
                await arrival(ledger, "silent")
                raise mine
        assert caught.value is mine
    assert isinstance(call.error, ConnectionLost)


async def test_a_connection_lost_that_the_body_does_not_catch_leaves_the_block_as_the_same_object() -> None:
    with pytest.raises(ConnectionLost, match="exited with status 3") as caught:
        async with MCPPool({"s": answering()}) as pool:
            await pool.call_tool("s__crash")
    assert not isinstance(caught.value.__context__, BaseExceptionGroup)
    assert caught.value.server_id == "s"
