"""Deadlines of calls and attempts do not count the time for which the program itself stood still."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from helpers.calls import Outcome
from helpers.common import PATIENCE, scripted
from helpers.stdio import server, text
from mcp_pool import CallTimeout, ConnectTimeout, MCPPool
from mcp_pool.connection.deadline_timer import GRACE, LATE, DeadlineTimer


@asynccontextmanager
async def running_timer() -> AsyncIterator[DeadlineTimer]:
    timer = DeadlineTimer()
    async with anyio.create_task_group() as group:
        group.start_soon(timer.run)
        yield timer
        group.cancel_scope.cancel()


def stand_still(seconds: float = LATE + 0.5) -> None:
    """Block the event loop, as a suspended program does."""
    time.sleep(seconds)


async def test_a_scope_is_cancelled_when_its_deadline_has_passed() -> None:
    async with running_timer() as timer:
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            timer.set(scope, anyio.current_time() + 0.01)
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_the_earliest_deadline_counts_also_when_it_is_set_last() -> None:
    async with running_timer() as timer:
        with anyio.CancelScope() as late, anyio.fail_after(PATIENCE), anyio.CancelScope() as early:
            timer.set(late, anyio.current_time() + 1000)
            await anyio.wait_all_tasks_blocked()
            timer.set(early, anyio.current_time() + 0.01)
            await anyio.sleep_forever()
    assert (early.cancelled_caught, late.cancelled_caught) == (True, False)


async def test_a_deadline_that_is_set_before_the_timer_runs_counts() -> None:
    timer = DeadlineTimer()
    async with anyio.create_task_group() as group:
        with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
            timer.set(scope, anyio.current_time() + 0.01)
            group.start_soon(timer.run)
            await anyio.sleep_forever()
        group.cancel_scope.cancel()
    assert scope.cancelled_caught


async def test_a_deadline_that_has_passed_cancels_at_once() -> None:
    with anyio.CancelScope() as scope:
        DeadlineTimer().set(scope, anyio.current_time())
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_scope_that_was_forgotten_is_not_cancelled() -> None:
    async with running_timer() as timer:
        with anyio.CancelScope() as scope:
            timer.set(scope, anyio.current_time() + 0.01)
            timer.forget(scope)
            with anyio.fail_after(PATIENCE), anyio.CancelScope() as other:
                timer.set(other, anyio.current_time() + 0.02)
                await anyio.sleep_forever()
    assert not scope.cancel_called


async def test_a_deadline_that_is_changed_to_infinity_never_passes() -> None:
    async with running_timer() as timer:
        with anyio.CancelScope() as scope:
            timer.set(scope, anyio.current_time() + 0.01)
            timer.set(scope, math.inf)
            with anyio.fail_after(PATIENCE), anyio.CancelScope() as other:
                timer.set(other, anyio.current_time() + 0.02)
                await anyio.sleep_forever()
    assert not scope.cancel_called


async def test_what_arrives_during_the_grace_period_is_in_time_after_the_program_stood_still() -> None:
    async with running_timer() as timer:
        with anyio.CancelScope() as in_time, anyio.CancelScope() as too_late:
            timer.set(in_time, anyio.current_time() + 0.5)
            timer.set(too_late, anyio.current_time() + 0.5)
            await anyio.wait_all_tasks_blocked()
            stand_still()
            await anyio.sleep(GRACE / 10)
            timer.forget(in_time)
            with anyio.fail_after(PATIENCE):
                await anyio.sleep_forever()
    assert (in_time.cancel_called, too_late.cancelled_caught) == (False, True)


async def test_a_call_whose_answer_arrived_while_the_program_stood_still_is_answered() -> None:
    call = Outcome()
    async with MCPPool({"a": server()}) as pool, anyio.create_task_group() as group:
        await pool.wait_ready()

        async def make() -> None:
            await call.of(lambda: pool.call_tool("a__sleep", {"seconds": 0.5}, timeout=1.0))

        group.start_soon(make)
        await anyio.wait_all_tasks_blocked()
        stand_still(3.0)
    assert call.error is None
    assert text(call.value)


async def test_a_call_that_was_not_answered_while_the_program_stood_still_times_out() -> None:
    call = Outcome()
    async with MCPPool({"a": server()}) as pool, anyio.create_task_group() as group:
        await pool.wait_ready()

        async def make() -> None:
            await call.of(lambda: pool.call_tool("a__silent", timeout=1.0))

        group.start_soon(make)
        await anyio.wait_all_tasks_blocked()
        stand_still(3.0)
    assert isinstance(call.error, CallTimeout)


@pytest.mark.parametrize("answers", [True, False])
async def test_an_attempt_is_given_the_grace_period_as_well(answers: bool) -> None:
    outcome = Outcome()
    spec = scripted(*([] if answers else ["--never-answer"]), mode="legacy", connect_timeout=4.0, close_timeout=0.2)
    async with MCPPool() as pool, anyio.create_task_group() as group:
        group.start_soon(outcome.of, pool.connect, "a", spec)
        await anyio.wait_all_tasks_blocked()
        stand_still(6.0)
    if answers:
        assert outcome.error is None
    else:
        assert isinstance(outcome.error, ConnectTimeout)
