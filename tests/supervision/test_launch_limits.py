"""How many servers of one package runner are started at once (`launch_limits`), by a virtual clock."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.clock import virtual_backends
from helpers.fake import FAKE, Life, fake_wire, most_at_once, start_times, wire_of
from mcp_pool import (
    ConnectError,
    ConnectionStatus,
    ConnectTimeout,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    StdioServer,
)
from mcp_pool.config.launch_limits import program_of
from mcp_pool.supervision.connect_limiter import LAUNCH_TIME, SLOT_TIME
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Mapping

HANGS = 1e6
"""Seconds of a handshake that nobody waits for."""
EXACT = RestartPolicy(jitter=0.0)
NPX = StdioServer("npx", ["-y", "some-package"])


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def most_started(
    monkeypatch: pytest.MonkeyPatch, command: str, limits: Mapping[str, int | None] | None = None, **settings: object
) -> int:
    """How many of ten servers that a program starts are starting at once; `settings` replace `limits`."""
    wire = fake_wire(monkeypatch, Life(handshake=4.0))
    async with MCPPool(**{"launch_limits": limits or {}, **settings}) as pool:
        for number in range(10):
            pool.add(str(number), StdioServer(command))
        await pool.wait_ready(timeout=None)
    return most_at_once(wire.times, 4.0)


@pytest.mark.parametrize(
    ("limit", "program"),
    [
        *((2, program) for program in ("npx", "npm", "pnpm", "yarn", "bunx", "uvx", "uv", "pipx")),
        *((4, program) for program in ("docker", "podman")),
        *((10, program) for program in ("node", "python", "my-npx")),
    ],
)
async def test_left_alone_two_servers_of_a_package_runner_are_started_at_once_and_four_of_a_container_runner(
    monkeypatch: pytest.MonkeyPatch, limit: int, program: str
) -> None:
    assert await most_started(monkeypatch, program) == limit


@pytest.mark.parametrize("command", ["/usr/local/bin/npx", "./npx", "npx.cmd", r"C:\Program Files\nodejs\npx.exe"])
async def test_a_runner_is_known_by_its_name_wherever_it_lies(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    assert program_of(command) == "npx"
    assert await most_started(monkeypatch, command) == 2


@pytest.mark.parametrize("command", ["npx-other", "my-npx", "npx.js", "npx/", "/npx/server", ".exe", ".", "/"])
def test_what_only_resembles_a_runner_is_none(command: str) -> None:
    assert program_of(command) in {"npx-other", "my-npx", "npx.js", "npx", "server", ""}
    assert (program_of(command) == "npx") == (command == "npx/")


async def test_limits_that_are_given_are_merged_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"npx": 8, "deno": 3, "uvx": None}
    most = {program: await most_started(monkeypatch, program, limits) for program in ("npx", "deno", "uvx", "pipx")}
    assert most == {"npx": 8, "deno": 3, "uvx": 10, "pipx": 2}


async def test_none_is_no_limit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await most_started(monkeypatch, "npx", launch_limits=None) == 10


async def test_each_runner_has_slots_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=1.0))
    async with MCPPool(
        {f"{program} {number}": StdioServer(program) for program in ("npx", "uvx") for number in range(4)}
    ):
        assert most_at_once(wire.times, 1.0) == 4


async def test_a_slot_is_held_until_the_server_is_connected_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wire_of(monkeypatch, {"first": Life(handshake=20.0)}, Life(handshake=1.0))
    async with MCPPool(launch_limits={"npx": 1}) as pool:
        start = anyio.current_time()
        for server_id in ("first", "second", "third"):
            pool.add(server_id, NPX)
        await pool.wait_ready(timeout=None)
        assert [time - start for time in wire.times] == pytest.approx([0, 20, 21])


async def test_a_runner_that_hangs_holds_its_slot_for_half_a_minute_only(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = [f"hung {number}" for number in range(4)]
    wire = wire_of(monkeypatch, dict.fromkeys(hung, Life(handshake=HANGS)), Life(handshake=1.0))
    async with MCPPool(connect_timeout=None) as pool:
        start = anyio.current_time()
        for server_id in [*hung, "last"]:
            pool.add(server_id, NPX)
        await pool.wait_ready("last", timeout=None)
        times = [time - start for time in start_times(wire).values()]
        assert times == pytest.approx([0, 0, LAUNCH_TIME, LAUNCH_TIME, 2 * LAUNCH_TIME])
        assert all(pool.get_status(server_id) is ConnectionStatus.CONNECTING for server_id in hung)


async def test_no_other_server_waits_for_those_of_a_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are starting for ever and fifty wait behind them: none of them holds a connect slot."""
    runners = [f"runner {number}" for number in range(52)]
    wire = wire_of(monkeypatch, dict.fromkeys(runners, Life(handshake=HANGS)), Life(handshake=0.1))
    async with MCPPool(max_connecting=2) as pool:
        start = anyio.current_time()
        for server_id in runners:
            pool.add(server_id, NPX)
        others = [f"other {number}" for number in range(10)]
        for server_id in others:
            pool.add(server_id, InProcessServer(calculator()) if server_id == "other 3" else FAKE)
        await pool.wait_ready(*others)
        # For the first second, the two that hang count as connecting.
        assert anyio.current_time() - start == pytest.approx(SLOT_TIME + 5 * 0.1)
        assert sum(server_id in runners for server_id in start_times(wire)) == 2


async def test_a_runner_that_waits_for_a_connect_slot_holds_none_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its half minute begins when it does."""
    hung = [f"hung {number}" for number in range(5)]
    wire = wire_of(monkeypatch, {}, Life(handshake=HANGS))
    async with MCPPool(max_connecting=1, launch_limits={"npx": 1}, connect_timeout=None) as pool:
        start = anyio.current_time()
        for server_id in hung:
            pool.add(server_id, FAKE)
        pool.add("first", NPX)
        await anyio.sleep(0.5)
        pool.add("second", NPX)
        await anyio.sleep(100)
        times = start_times(wire)
        assert times["first"] - start == pytest.approx(5 * SLOT_TIME)
        assert times["second"] - start == pytest.approx(5 * SLOT_TIME + LAUNCH_TIME)


async def test_a_runner_whose_turn_comes_is_overtaken_by_nobody_who_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it may not be started, others go first; then it is the first again, however many they are."""
    wire = wire_of(monkeypatch, {"first": Life(handshake=3.0)}, Life(handshake=0.9))
    async with MCPPool(max_connecting=1, launch_limits={"npx": 1}, connect_timeout=None) as pool:
        start = anyio.current_time()
        for server_id in ("first", "second", "third"):
            pool.add(server_id, NPX)
        for number in range(20):
            pool.add(f"other {number}", FAKE)
        await pool.wait_ready(timeout=None)
        times = {server_id: round(time - start, 3) for server_id, time in start_times(wire).items()}
    assert list(times)[:7] == ["first", "other 0", "other 1", "other 2", "second", "third", "other 3"]
    assert (times["other 0"], times["second"]) == (SLOT_TIME, SLOT_TIME + 3 * 0.9)


async def test_an_attempt_that_fails_leaves_its_slot_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wire_of(monkeypatch, {"good": Life(handshake=0.1)}, Life(handshake=2.0, fails=True))
    async with MCPPool(launch_limits={"npx": 1}, restart=RestartPolicy.never(), connect_timeout=None) as pool:
        start = anyio.current_time()
        for number in range(5):
            pool.add(str(number), NPX)
        await pool.connect("good", NPX)
        assert anyio.current_time() - start == pytest.approx(5 * 2.0 + 0.1)


async def test_who_waits_can_leave_and_who_starts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wire_of(monkeypatch, {"first": Life(handshake=HANGS)}, Life(handshake=0.1))
    async with MCPPool(launch_limits={"npx": 1}) as pool:
        start = anyio.current_time()
        for server_id in ("first", "leaves", "stays"):
            pool.add(server_id, NPX)
        await anyio.sleep(0.2)
        assert await pool.disconnect("leaves")
        assert await pool.disconnect("first")
        await pool.wait_ready()
        assert {key: time - start for key, time in start_times(wire).items()} == pytest.approx(
            {"first": 0.0, "stays": 0.2}
        )


async def test_those_that_are_lost_together_are_started_again_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=1.0))
    ids = [str(number) for number in range(12)]
    async with MCPPool(dict.fromkeys(ids, NPX), restart=EXACT, open_timeout=None) as pool:
        wire.times.clear()
        for server_id in ids:
            wire.kill(server_id)
        await pool.wait_ready(timeout=None)
        assert len(wire.times) == 12
        assert most_at_once(wire.times, 1.0) == 2


@pytest.mark.parametrize(
    ("max_connecting", "hung", "reason", "advice"),
    [
        (
            16,
            NPX,
            r"all slots of launch_limits['npx'] (2) were in use",
            "Raise launch_limits['npx'] or connect_timeout.",
        ),
        (1, FAKE, "all slots of max_connecting (1) were in use", "Raise max_connecting or connect_timeout."),
        (
            1,
            NPX,
            "all slots of max_connecting (1) and all slots of launch_limits['npx'] (2) were in use",
            "Raise max_connecting, launch_limits['npx'] or connect_timeout.",
        ),
    ],
)
async def test_the_wait_counts_as_connect_timeout_and_the_error_says_what_was_full(
    monkeypatch: pytest.MonkeyPatch, max_connecting: int, hung: StdioServer, reason: str, advice: str
) -> None:
    wire = wire_of(monkeypatch, {}, Life(handshake=HANGS))
    async with MCPPool(max_connecting=max_connecting) as pool:
        for number in range(2 if hung is NPX else 10):
            pool.add(str(number), hung)
        await anyio.sleep(0.5 + (0 if max_connecting > 1 or hung is FAKE else SLOT_TIME))
        start = anyio.current_time()
        with pytest.raises(ConnectTimeout) as caught:
            await pool.connect("late", StdioServer("npx", connect_timeout=0.4))
        assert anyio.current_time() - start == pytest.approx(0.4)
        assert "got no connect slot within connect_timeout=0.4 s" in caught.value.reason
        assert reason in caught.value.reason
        assert caught.value.advice == advice
        assert (caught.value.attempt, caught.value.phase, caught.value.retryable) == (1, "spawn", True)
        assert "late" not in start_times(wire)


@pytest.mark.parametrize("seed", range(5))
async def test_whoever_comes_and_goes_no_slot_is_lost(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    wire = fake_wire(monkeypatch)
    wire.script = lambda _attempt: Life(
        handshake=chance.choice([0, 0.01, 0.3, 0.9, 1.5, 20, 40]), fails=chance.random() < 0.2
    )

    async def come_and_go(number: int) -> None:
        await anyio.sleep(chance.random() * 3)
        with anyio.move_on_after(chance.choice([0, 0.05, 0.3, 2, 35])):
            try:
                await pool.connect(str(number), chance.choice([NPX, StdioServer("docker"), FAKE]))
            except ConnectError:
                return
        if chance.random() < 0.7:
            await pool.disconnect(str(number))

    async with MCPPool(max_connecting=3, launch_limits={"docker": 1}) as pool:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(come_and_go, number)
        wire.script = lambda _attempt: Life(handshake=0.5)
        await pool.close_all()
        wire.forget()
        start = anyio.current_time()
        for number in range(6):
            pool.add(f"npx {number}", NPX)
            pool.add(f"docker {number}", StdioServer("docker"))
        await pool.wait_ready()
        assert anyio.current_time() - start == pytest.approx(6 * 0.5)
