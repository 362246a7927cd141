"""Calls and restarts are counted by server id for the lifetime of the pool, in totals that stay exact."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.calls import Outcome
from helpers.common import eventually
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import InProcessServer, MCPPool, RestartPolicy, ServerUnavailable
from mcp_pool.supervision.counters import Counters, Counts
from servers.in_process import calculator

if TYPE_CHECKING:
    from mcp_pool import PoolSnapshot, ServerSnapshot

CALCULATOR = InProcessServer(calculator())


def counts(snapshot: PoolSnapshot | ServerSnapshot) -> tuple[int, int, int, int]:
    """Calls done, calls failed, tool errors and restarts."""
    return snapshot.calls_done, snapshot.calls_failed, snapshot.tool_errors, snapshot.restarts


async def use(pool: MCPPool, server_id: str = "one") -> None:
    """One call that returns a result, one whose tool fails, one that is cut off, and one restart."""
    server = pool.server(server_id)
    await server.call_tool("echo", {"text": "x"})
    assert (await server.call_tool("fail")).is_error
    with pytest.raises(TimeoutError):
        await server.call_tool("sleep", {"seconds": 1000}, timeout=0.01)
    await server.restart()


async def disconnected(pool: MCPPool) -> None:
    await pool.disconnect("one")
    await pool.connect("one", CALCULATOR)


async def replaced(pool: MCPPool) -> None:
    await pool.replace("one", InProcessServer(calculator()))


async def closed(pool: MCPPool) -> None:
    await pool.close_all()
    await pool.connect("one", CALCULATOR)


async def closed_and_connected_at_once(pool: MCPPool) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(pool.close_all)
        await eventually(lambda: not pool.servers)
        await pool.connect("one", CALCULATOR)


@pytest.mark.parametrize("changed", [disconnected, replaced, closed, closed_and_connected_at_once])
async def test_the_counts_of_a_server_that_leaves_and_comes_back_continue(
    changed: Callable[[MCPPool], Awaitable[None]],
) -> None:
    async with MCPPool({"one": CALCULATOR}) as pool:
        await use(pool)
        await changed(pool)
        assert counts(pool.snapshot().servers["one"]) == counts(pool.snapshot()) == (2, 1, 1, 1)
        await use(pool)
        assert counts(pool.snapshot().servers["one"]) == counts(pool.snapshot()) == (4, 2, 2, 2)


async def test_totals_include_servers_that_have_left_and_outlive_the_block() -> None:
    async with MCPPool({"one": CALCULATOR, "two": CALCULATOR}) as pool:
        await use(pool, "one")
        await use(pool, "two")
        await pool.disconnect("one")
        assert counts(pool.snapshot()) == (4, 2, 2, 2)
        assert counts(pool.snapshot().servers["two"]) == (2, 1, 1, 1)
        await pool.close_all()
        assert counts(pool.snapshot()) == (4, 2, 2, 2)
    assert counts(pool.snapshot()) == (4, 2, 2, 2)
    assert pool.snapshot().to_dict() | {"time": None, "timestamp": 0} == {
        "time": None,
        "timestamp": 0,
        "servers": {},
        "connected": 0,
        "calls_in_flight": 0,
        "calls_done": 4,
        "calls_failed": 2,
        "tool_errors": 2,
        "restarts": 2,
    }


async def test_a_call_that_ends_with_the_server_it_waited_for_is_counted_for_its_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_wire(monkeypatch, Life(fails=True))
    outcome = Outcome()
    async with MCPPool(restart=RestartPolicy(initial_delay=1000)) as pool, anyio.create_task_group() as group:
        pool.add("one", FAKE)
        group.start_soon(outcome.of, pool.server("one").call_tool, "echo")
        await anyio.wait_all_tasks_blocked()
        await pool.disconnect("one")
        await outcome.ended.wait()
        assert isinstance(outcome.error, ServerUnavailable)
        assert counts(pool.snapshot()) == (0, 1, 0, 0)


async def test_totals_stay_exact_when_servers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.supervision.counters.KEPT_LIMIT", 3)
    async with MCPPool({"stays": CALCULATOR}) as pool:
        await pool.call_tool("stays__echo", {"text": "x"})
        for number in range(10):
            await pool.connect(f"server {number}", CALCULATOR)
            await pool.server(f"server {number}").call_tool("echo", {"text": "x"})
            await pool.disconnect(f"server {number}")
        assert counts(pool.snapshot()) == (11, 0, 0, 0)
        for kept, number in ((1, 9), (0, 0)):
            await pool.connect(f"server {number}", CALCULATOR)
            assert pool.snapshot().servers[f"server {number}"].calls_done == kept
        assert pool.snapshot().servers["stays"].calls_done == 1  # however long ago it was added
        assert counts(pool.snapshot()) == (11, 0, 0, 0)


def test_a_call_that_ends_after_its_server_was_forgotten_is_in_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.supervision.counters.KEPT_LIMIT", 1)
    counters, row = Counters(), object()
    for server_id in ("old", "new"):
        counters.admit(server_id, row)
        counters.release(server_id, row)
    counters.add("old", Counts(calls_failed=1))
    assert counters.read().by_id == {"new": Counts()}
    assert counters.read().excluding(()) == Counts(calls_failed=1)


def test_a_server_with_a_successor_does_not_count_as_having_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.supervision.counters.KEPT_LIMIT", 1)
    counters, row, successor = Counters(), object(), object()
    counters.admit("one", row)
    counters.add("one", Counts(calls_done=1))
    assert counters.admit("one", successor) == Counts(calls_done=1)
    counters.release("one", row)
    for server_id in ("two", "three"):
        counters.admit(server_id, row)
        counters.release(server_id, row)
    assert counters.read().by_id == {"one": Counts(calls_done=1), "three": Counts()}
    counters.release("one", successor)
    assert counters.read().by_id == {"one": Counts(calls_done=1)}


def test_counts_that_were_read_do_not_change() -> None:
    counters, row = Counters(), object()
    counters.admit("one", row)
    read = counters.read()
    counters.add("one", Counts(restarts=1))
    assert read.by_id == {"one": Counts()}
