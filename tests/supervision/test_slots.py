"""How many calls a server runs at once (`max_in_flight`), with a virtual clock: which wait, and in what order."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import anyio
import pytest

from helpers.calls import words
from helpers.clock import virtual_backends
from helpers.common import connection_of
from helpers.steps import at_each_step, count_calls_in_process
from helpers.turns import in_turn, taking
from mcp_pool import (
    CallTimeout,
    ConnectionLost,
    Failed,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
)
from mcp_pool.transports.channel import DisconnectCause
from servers.workshop import Workshop


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def work(pool: MCPPool, key: str, seconds: float, **more: Any) -> str:
    """Call the tool of the server `s`."""
    return words(await pool.call_tool("s__work", {"key": key, "seconds": seconds}, **more))


async def check_all_free(pool: MCPPool, shop: Workshop, slots: int) -> None:
    """Check that exactly this many calls run at once."""
    shop.most = 0
    with taking(2):
        async with anyio.create_task_group() as group:
            for number in range(2 * slots):
                group.start_soon(work, pool, f"check {number}", 1)
    assert shop.most == slots


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("slots", [1, 3])
async def test_no_more_than_max_in_flight_calls_run_at_once_and_all_are_answered(slots: int, mode: str) -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(slots, mode=mode)}) as pool:
        with taking(12 / slots):
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(work, pool, str(number), 1)
                await anyio.sleep(0.5)
                assert pool.snapshot().calls_in_flight == slots
        assert shop.most == slots
        assert pool.snapshot().calls_done == len(shop.begun) == 12


async def test_without_a_limit_all_calls_run_at_once() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(None)}) as pool, anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(work, pool, str(number), 1)
        await anyio.sleep(0.5)
        assert shop.running == 100


async def test_prompts_resources_and_completions_take_a_slot_too() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1)}) as pool, anyio.create_task_group() as group:
        await in_turn(group, work, pool, "a", 5)
        with taking(5):
            await pool.server("s").refresh()


async def test_calls_that_wait_run_in_order_of_arrival() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1)}) as pool:
        async with anyio.create_task_group() as group:
            for number in range(20):
                await in_turn(group, work, pool, str(number), 1)
        assert shop.begun == [str(number) for number in range(20)]


async def test_a_restart_keeps_the_order_and_the_slots() -> None:
    shop = Workshop(0, 5)
    async with MCPPool({"s": shop.spec(1)}) as pool:
        async with anyio.create_task_group() as group:
            first = await in_turn(group, work, pool, "first", 100)
            for number in range(5):
                await in_turn(group, work, pool, str(number), 1)
            await in_turn(group, pool.server("s").restart)
            for number in range(5, 10):
                await in_turn(group, work, pool, str(number), 1)
        assert isinstance(first.error, ConnectionLost)
        assert shop.begun == ["first", *map(str, range(10))]
        await check_all_free(pool, shop, 1)


async def test_a_new_call_does_not_overtake_those_that_wait() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1)}) as pool, anyio.create_task_group() as group:

        async def two() -> None:
            await work(pool, "first", 1)
            await work(pool, "newcomer", 1)  # at the very moment when the slot becomes free

        await in_turn(group, two)
        await in_turn(group, work, pool, "waits", 1)
        await anyio.sleep(5)
        assert shop.begun == ["first", "waits", "newcomer"]


async def test_a_call_cancelled_while_it_waits_neither_loses_nor_keeps_a_slot() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1)}) as pool:
        scope = anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await work(pool, "cancelled", 1)

        async with anyio.create_task_group() as group:
            await in_turn(group, work, pool, "a", 2)
            await in_turn(group, work, pool, "b", 2)
            await in_turn(group, cancelled)
            await in_turn(group, work, pool, "c", 2)
            with taking(0):
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
        assert shop.begun == ["a", "b", "c"]
        await check_all_free(pool, shop, 1)


async def test_a_call_cancelled_at_the_moment_of_its_turn_passes_its_slot_on() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1)}) as pool:
        scope = anyio.CancelScope()

        async def first() -> None:
            await work(pool, "first", 1)
            scope.cancel()  # the slot has just been given to `second`, which has not resumed yet

        async def second() -> None:
            with scope:
                await work(pool, "second", 1)

        with taking(2):
            async with anyio.create_task_group() as group:
                await in_turn(group, first)
                await in_turn(group, second)
                await in_turn(group, work, pool, "third", 1)
        assert shop.begun[-1] == "third"
        await check_all_free(pool, shop, 1)


@pytest.mark.parametrize("waits", [False, True], ids=["free", "taken"])
async def test_no_slot_is_lost_when_a_call_is_cancelled_at_any_await(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, steps = Workshop(), count_calls_in_process(monkeypatch)
    async with MCPPool({"s": shop.spec(1)}) as pool, anyio.create_task_group() as group:

        async def occupy() -> None:
            if waits:
                await in_turn(group, work, pool, "holder", 1)

        async def check() -> None:
            with taking(2 if waits and shop.running else 1):
                assert await work(pool, "check", 1) == "check"

        assert await at_each_step(steps, lambda: work(pool, "cancelled", 1), before=occupy, after=check) > 1


@pytest.mark.parametrize("seed", range(8))
async def test_no_slot_is_lost_whichever_calls_are_cancelled_at_any_time(seed: int) -> None:
    shop, chance = Workshop(0, 1, 0, 3), random.Random(seed)
    slots = chance.choice([1, 2, 3])
    spec = shop.spec(slots, restart=RestartPolicy(initial_delay=0.1))
    async with MCPPool({"s": spec}, wait_timeout=chance.choice([1.5, 5, 100])) as pool:

        async def caller(number: int) -> None:
            await anyio.sleep(chance.choice([0, 0, chance.random() * 5]))
            with anyio.move_on_after(chance.choice([0, 1, chance.random() * 5, 100])):
                with suppress(ServerUnavailable, ConnectionLost, CallTimeout):
                    await work(pool, str(number), chance.choice([0, 1, 2]), timeout=chance.choice([0, 1, 3, None]))

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(caller, number)
            for _ in range(3):
                await anyio.sleep(chance.random() * 3)
                await pool.server("s").restart()
        assert shop.most <= slots
        await check_all_free(pool, shop, slots)


async def test_a_call_waits_for_a_slot_up_to_wait_timeout_and_names_max_in_flight() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(2)}, wait_timeout=7) as pool, anyio.create_task_group() as group:
        await in_turn(group, work, pool, "a", 20)
        await in_turn(group, work, pool, "b", 20)
        with taking(7), pytest.raises(ServerUnavailable, match=r"'s'.*max_in_flight=2") as caught:
            await work(pool, "late", 1)
        assert (caught.value.server_id, caught.value.missing, caught.value.cause) == ("s", ("s",), None)
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        group.cancel_scope.cancel()
    assert shop.begun == ["a", "b"]


@pytest.mark.parametrize(("wait_timeout", "passes"), [(0, 0), (None, 1000)])
async def test_a_wait_timeout_of_zero_does_not_wait_and_none_waits_forever(
    wait_timeout: float | None, passes: float
) -> None:
    shop = Workshop()
    bounds: Any = {"wait_timeout": wait_timeout, "call_timeout": None, "max_call_time": None}
    async with MCPPool({"s": shop.spec(1)}, **bounds) as pool, anyio.create_task_group() as group:
        await in_turn(group, work, pool, "a", 1000)
        with taking(passes):
            late = await in_turn(group, work, pool, "b", 0)
            await late.ended.wait()
        assert (late.value, type(late.error)) == (("b", type(None)) if passes else (None, ServerUnavailable))
        group.cancel_scope.cancel()


async def test_an_explicit_timeout_includes_the_wait_for_the_slot() -> None:
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1)}) as pool, anyio.create_task_group() as group:
        await in_turn(group, work, pool, "a", 6)
        with taking(5), pytest.raises(ServerUnavailable, match="max_in_flight=1"):
            await work(pool, "waits", 1, timeout=5)
        with taking(5), pytest.raises(CallTimeout, match="timeout=5 s"):
            await work(pool, "waits and runs", 30, timeout=5)


async def test_the_waits_for_a_slot_and_for_the_server_share_wait_timeout() -> None:
    shop = Workshop(0, 8)
    async with MCPPool({"s": shop.spec(1)}, wait_timeout=10) as pool, anyio.create_task_group() as group:
        await in_turn(group, work, pool, "a", 100)
        late = await in_turn(group, work, pool, "b", 1)
        with taking(10):
            await anyio.sleep(6)
            await in_turn(group, pool.server("s").restart)
            await late.ended.wait()
        assert isinstance(late.error, ServerUnavailable)
        assert "connecting" in str(late.error)


@pytest.mark.parametrize("end", ["failed", "disconnected"])
async def test_a_call_that_waits_for_a_slot_fails_as_soon_as_the_server_is_unavailable(end: str) -> None:
    """In both cases the call that has the slot continues: the connection drains."""
    shop = Workshop()
    async with MCPPool({"s": shop.spec(1, restart=RestartPolicy.never())}) as pool:
        async with anyio.create_task_group() as group:
            runs = await in_turn(group, work, pool, "a", 3)
            late = await in_turn(group, work, pool, "b", 1)
            with taking(0):
                if end == "failed":
                    connection_of(pool, "s").channel.mark_lost(DisconnectCause("took no more", draining=True))
                    assert isinstance(pool.server("s").state, Failed)
                else:
                    await in_turn(group, lambda: pool.disconnect("s", drain=10))
                await late.ended.wait()
                assert isinstance(late.error, ServerUnavailable)
                assert end in str(late.error)
                with pytest.raises(ServerUnavailable, match=end):
                    await pool.server("s").call_tool("work", {"key": "c", "seconds": 1})
        assert runs.value == "a"
        assert shop.begun == ["a"]


async def test_a_server_whose_slots_are_all_in_use_does_not_delay_another() -> None:
    shop, other = Workshop(), Workshop()
    async with MCPPool({"s": shop.spec(1), "other": other.spec(1)}) as pool, anyio.create_task_group() as group:
        for number in range(50):
            await in_turn(group, work, pool, str(number), 1000)
        with taking(0):
            await pool.call_tool("other__work", {"key": "quick", "seconds": 0})
        group.cancel_scope.cancel()
