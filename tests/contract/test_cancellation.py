"""Cancellation at each await point of each operation, in the caller and in the pool's tasks that work for it.

Each test repeats an operation and cancels it at its first suspension, its second, and so on, until it ends without
being cancelled. The check that is part of every async test finds tasks, processes and descriptors that are left.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import eventually, scripted
from helpers.steps import at_each_step, count_children
from mcp_pool import ConnectionStatus, InProcessServer, MCPPool, PoolClosed, ServerConfig
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: dict[str, Callable[[], ServerConfig]] = {
    "in process": lambda: InProcessServer(calculator()),
    "in process, legacy": lambda: InProcessServer(calculator(), mode="legacy"),
    "stdio": lambda: scripted("--modern", close_timeout=2.0),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def lives(pool: MCPPool, server_id: str) -> bool:
    """Whether there is a row."""
    return server_id in pool.servers


async def is_in_use(pool: MCPPool, server_id: str) -> None:
    """Fail unless a server is connected and answers."""
    assert pool.get_status(server_id) is ConnectionStatus.CONNECTED
    result = await pool.server(server_id).call_tool("echo", {"text": "here"})
    assert result.content[0].text == "here"


@each_kind
async def test_connect_is_cancelled_at_each_await_point(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)

    async with MCPPool() as pool:

        async def after() -> None:
            if pool.get_status("server") is not ConnectionStatus.CONNECTED:
                assert pool.get_status("server") is ConnectionStatus.DISCONNECTED
                await eventually(lambda: not lives(pool, "server"))
            assert await pool.connect("server", spec)
            await is_in_use(pool, "server")
            assert await pool.disconnect("server")
            assert not lives(pool, "server")

        assert await at_each_step(steps, partial(pool.connect, "server", spec), after=after) > 2


@each_kind
async def test_cancelling_one_connect_at_each_await_point_does_not_disturb_another_that_shares_its_attempt(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)

    async with MCPPool() as pool:

        async def with_a_second_waiter() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(stay)
                await pool.connect("server", spec)

        async def stay() -> None:
            with anyio.CancelScope(shield=True):
                assert await pool.connect("server", spec)

        async def after() -> None:
            await is_in_use(pool, "server")
            await pool.disconnect("server")

        assert await at_each_step(steps, with_a_second_waiter, after=after) > 2


@each_kind
async def test_disconnect_is_cancelled_at_each_await_point(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)

    async with MCPPool() as pool:

        async def after() -> None:
            assert pool.get_status("server") is ConnectionStatus.DISCONNECTED
            await eventually(lambda: not lives(pool, "server"))

        await at_each_step(
            steps,
            partial(pool.disconnect, "server"),
            before=partial(pool.connect, "server", spec),
            after=after,
        )


@each_kind
async def test_close_all_is_cancelled_at_each_await_point(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)

    async with MCPPool() as pool:

        async def after() -> None:
            assert not pool.get_all_statuses()
            # The cancelled call did not wait until everything had ended; another one does.
            await pool.close_all()
            assert not [task for task in anyio.get_running_tasks() if "child" in (task.name or "")]

        await at_each_step(steps, pool.close_all, before=partial(pool.connect, "server", spec), after=after)


@pytest.mark.parametrize("operation", ["disconnect", "close_all"])
async def test_a_wait_for_calls_to_finish_is_cancelled_at_each_await_point(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, steps = InProcessServer(calculator()), count_children(monkeypatch)
    ended: list[str] = []

    async def call(pool: MCPPool) -> None:
        try:
            await pool.server("server").call_tool("sleep", {"seconds": 3600})
        except Exception as error:
            ended.append(str(error))

    async with MCPPool() as pool, anyio.create_task_group() as group:

        async def before() -> None:
            await pool.connect("server", spec)
            group.start_soon(call, pool)
            await eventually(lambda: pool.snapshot().calls_in_flight)

        async def drain() -> None:
            with anyio.move_on_after(0.05):
                if operation == "disconnect":
                    await pool.disconnect("server", drain=3600)
                else:
                    await pool.close_all(drain=3600)

        async def after() -> None:
            await eventually(lambda: not lives(pool, "server"))
            await eventually(lambda: ended)
            assert {"disconnect": "was disconnected", "close_all": "was closed with all"}[operation] in ended.pop()

        await at_each_step(steps, drain, before=before, after=after)


@each_kind
async def test_a_call_is_cancelled_at_each_await_point_and_the_connection_stays_in_use(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = count_children(monkeypatch)
    async with MCPPool({"server": KINDS[kind]()}) as pool:

        async def after() -> None:
            await is_in_use(pool, "server")
            assert pool.server("server").generation == 1
            assert pool.snapshot().calls_in_flight == 0

        assert await at_each_step(steps, partial(pool.call_tool, "server__echo", {"text": "hello"}), after=after)


async def test_a_call_that_waits_for_its_server_is_cancelled_at_each_await_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = count_children(monkeypatch)
    async with MCPPool() as pool:

        async def before() -> None:
            pool.add("server", InProcessServer(calculator()))

        async def call() -> None:
            await pool.server("server").call_tool("echo", {"text": "hello"})

        async def after() -> None:
            await pool.wait_ready("server")
            await is_in_use(pool, "server")
            assert pool.snapshot().calls_in_flight == 0
            await pool.disconnect("server")

        assert await at_each_step(steps, call, before=before, after=after) > 2


@each_kind
async def test_restart_is_cancelled_at_each_await_point_and_the_server_still_connects(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = count_children(monkeypatch)
    async with MCPPool({"server": KINDS[kind]()}) as pool:

        async def after() -> None:
            await pool.wait_ready("server")
            await is_in_use(pool, "server")

        assert await at_each_step(steps, pool.server("server").restart, after=after) > 2


@each_kind
async def test_wait_ready_is_cancelled_at_each_await_point_and_the_server_still_connects(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)
    async with MCPPool() as pool:

        async def before() -> None:
            pool.add("server", spec)

        async def after() -> None:
            await pool.wait_ready("server")
            await is_in_use(pool, "server")
            assert pool.server("server").generation == 1
            await pool.disconnect("server")

        assert await at_each_step(steps, pool.wait_ready, before=before, after=after) > 2


@each_kind
async def test_the_block_is_cancelled_at_each_await_point(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)
    pools: list[MCPPool] = []

    async def block() -> None:
        pools.append(MCPPool({"server": spec}, close_timeout=2.0))
        async with pools[-1] as pool:
            await pool.call_tool("server__echo", {"text": "hello"})

    async def after() -> None:
        assert not pools[-1].get_all_statuses()
        assert not pools[-1].servers
        assert not [task for task in anyio.get_running_tasks() if "mcp_pool" in (task.name or "")]

    assert await at_each_step(steps, block, after=after) > 5


@each_kind
async def test_cancel_is_called_at_each_await_point_of_the_block(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, steps = KINDS[kind](), count_children(monkeypatch)
    pools: list[MCPPool] = []
    went_on: list[bool] = []

    async def block() -> None:
        pools.append(MCPPool({"server": spec}, close_timeout=2.0))
        async with pools[-1] as pool:
            await anyio.lowlevel.checkpoint()
            await pool.call_tool("server__echo", {"text": "hello"})
        await anyio.lowlevel.checkpoint()
        went_on.append(True)

    def cancel() -> None:
        with suppress(PoolClosed):  # at points where it is not open yet, or no longer open
            pools[-1].cancel()

    async def after() -> None:
        assert len(went_on) == len(pools)
        assert not pools[-1].get_all_statuses()

    assert await at_each_step(steps, block, after=after, cancel=cancel) > 5
