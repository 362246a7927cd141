"""Random programs: any operations from any tasks in any order, and everything agrees after every step."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import HealthCheck, given, register_random, settings
from hypothesis import strategies as st

from helpers.common import eventually
from helpers.http_world import http_world
from helpers.programs import IDS, FakeWorld, Operation, Player, RealWorld, programs
from mcp_pool import ConnectionStatus, MCPPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.programs import World

PROGRAM_TIME = 30.0
"""Seconds for one program: an upper bound that only a hang exceeds."""

ANY_TIME = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def deterministic_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hypothesis seed the order in which trio runs its tasks, so that failures can be reproduced."""
    run: Any = import_module("trio")._core._run
    monkeypatch.setattr(run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    register_random(run._r)


def pool_tasks() -> list[str]:
    """The names of the pool's tasks."""
    return sorted(task.name for task in anyio.get_running_tasks() if task.name and "mcp_pool: child" in task.name)


async def run_program(program: list[list[Operation]], world: World) -> None:
    """Run a program in a new block; afterwards each id can be connected, and after the block everything is empty."""
    with anyio.fail_after(PROGRAM_TIME):
        async with MCPPool(wait_timeout=0.05, close_timeout=2.0) as pool:
            player = Player(pool, world)
            await player.play(program)
            await eventually(lambda: pool_tasks() == sorted(f"mcp_pool: child {i!r}" for i in pool.servers))
            for server_id in IDS:
                world.set_broken(server_id, broken=False)
                await pool.disconnect(server_id)
                assert not world.instances(server_id)
                assert await pool.connect(server_id, world.spec(server_id))
                assert pool.get_status(server_id) is ConnectionStatus.CONNECTED
    assert (dict(pool.servers), dict(pool.tools), pool.get_all_statuses()) == ({}, {}, {})
    assert not pool.snapshot().servers
    assert not any(world.instances(server_id) for server_id in IDS)
    assert not pool_tasks()


async def leave_in_the_middle(program: list[list[Operation]], world: World, ticks: int) -> None:
    """Run a program and leave the block in the middle of it."""
    with anyio.fail_after(PROGRAM_TIME):
        async with anyio.create_task_group() as group:
            async with MCPPool(wait_timeout=0.05, close_timeout=2.0) as pool:
                player = Player(pool, world)
                group.start_soon(player.play, program)
                for _ in range(ticks + 1):
                    await anyio.lowlevel.checkpoint()
                player.left = True
            assert not pool.get_all_statuses()
            assert not any(world.instances(server_id) for server_id in IDS)
    assert not pool_tasks()


def run(backend: tuple[str, dict[str, Any]], function: Callable[..., Any], *arguments: Any) -> None:
    """Run an async function on a backend."""
    anyio.run(function, *arguments, backend=backend[0], backend_options=backend[1])


def test_everything_agrees_after_every_step_of_any_program(
    anyio_backend: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @settings(ANY_TIME, max_examples=150)
    @given(program=programs(tasks=5, length=8))
    def check(program: list[list[Operation]]) -> None:
        world = FakeWorld()
        with monkeypatch.context() as patch:
            patch.setattr("mcp_pool.supervision.child.Connector", world.connector)
            run(anyio_backend, run_program, program, world)

    check()


def test_everything_agrees_after_every_step_of_any_program_with_real_servers(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    @settings(ANY_TIME, max_examples=12)
    @given(program=programs(tasks=4, length=5))
    def check(program: list[list[Operation]]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            run(anyio_backend, run_program, program, RealWorld(Path(directory)))

    check()


def test_everything_agrees_after_every_step_of_any_program_with_servers_behind_urls(
    anyio_backend: tuple[str, dict[str, Any]],
) -> None:
    with http_world() as world:

        @settings(ANY_TIME, max_examples=12)
        @given(program=programs(tasks=4, length=6))
        def check(program: list[list[Operation]]) -> None:
            run(anyio_backend, run_program, program, world)

        check()


def test_a_block_that_is_left_in_the_middle_of_any_program_leaves_nothing_behind(
    anyio_backend: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @settings(ANY_TIME, max_examples=60)
    @given(program=programs(tasks=5, length=8), ticks=st.integers(0, 60))
    def check(program: list[list[Operation]], ticks: int) -> None:
        world = FakeWorld()
        with monkeypatch.context() as patch:
            patch.setattr("mcp_pool.supervision.child.Connector", world.connector)
            run(anyio_backend, leave_in_the_middle, program, world, ticks)

    check()
