"""What `restart` promises, and that generations keep many callers from causing many attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.calls import arrival
from helpers.common import PATIENCE, connection_of, eventually, row_of, scripted, started
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    UnknownServer,
)
from mcp_pool.transports.channel import DisconnectCause
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

    from mcp_pool.connection.attempt import Attempt

A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)


async def test_restart_makes_a_new_connection_and_waits_until_it_is_open(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
        await pool.server("one").restart()
        assert pool.server("one").generation == 2
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        first, second = started(tmp_path / "pids")
        assert (await pool.call_tool("one__pid")).content[0].text == str(second) != str(first)


async def test_a_connection_that_is_lost_just_after_a_restart_was_requested_does_not_delay_the_restart() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator(), restart=A_WHILE))
        lost = connection_of(pool, "one").channel
        row_of(pool, "one").request_attempt()
        lost.mark_lost(
            DisconnectCause("went away")
        )  # before any other task has run, so that the child still has the connection
        await pool.wait_ready("one", timeout=PATIENCE)
        assert (pool.server("one").generation, pool.server("one").last_error) == (2, None)


async def test_the_old_process_has_ended_before_the_new_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    running: list[list[str]] = []
    """The processes that were running when each attempt started, including the old one."""

    def begin(_attempt: Attempt) -> Life:
        running.append(list(wire.open))
        return Life(closing=0.2)

    wire.script = begin
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        assert wire.open == ["one"]
        await pool.server("one").restart()
        assert running == [[], []]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_in_process_server_is_restarted_with_its_lifespan(mode: str) -> None:
    record: list[str] = []
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator(record), mode=mode))
        await pool.server("one").restart()
        assert record == ["started", "stopped", "started"]
        assert not (await pool.call_tool("one__echo", {"text": "x"})).is_error


async def test_calls_in_flight_are_lost_by_a_restart(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted("--ledger", ledger))

        async def call() -> None:
            with pytest.raises(ConnectionLost, match="restarted") as caught:
                await pool.call_tool("one__silent")
            assert caught.value.may_have_run
            assert caught.value.generation == 1

        group.start_soon(call)
        await arrival(ledger, "silent")
        await pool.server("one").restart()


async def test_a_restart_requested_for_an_older_generation_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        handle = pool.server("one")
        await handle.restart(generation=1)
        assert handle.generation == 2
        await handle.restart(generation=1)
        await handle.restart(generation=0)
        assert handle.generation == 2
        assert len(wire.attempts) == 2


async def test_many_callers_that_lost_the_same_connection_cause_one_attempt(tmp_path: Path) -> None:
    generations: list[int | None] = []

    async def call() -> None:
        with pytest.raises(ConnectionLost) as caught:
            await pool.call_tool("one__silent")
        generations.append(caught.value.generation)
        await pool.server("one").restart(generation=caught.value.generation or 0)

    async with MCPPool(restart=A_WHILE) as pool:
        await pool.connect("one", scripted("--modern", "--pid-file", tmp_path / "pids"))
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(call)
            await eventually(lambda: pool.snapshot().calls_in_flight == 30)
            with pytest.raises(ConnectionLost):
                await pool.call_tool("one__crash")
        assert pool.server("one").generation == 2
    assert generations == [1] * 30
    assert len(started(tmp_path / "pids")) == 2


@pytest.mark.parametrize("late", [0, 1, 2, 3, 5, 8, 13])
async def test_later_callers_join_the_attempt_or_find_it_done(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    wire = fake_wire(monkeypatch)

    async def restart(checkpoints: int) -> None:
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        await pool.server("one").restart(generation=1)

    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(restart, number * late)
        assert pool.server("one").generation == 2
        assert len(wire.attempts) == 2


async def test_concurrent_restarts_are_one_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=0.05))
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(pool.server("one").restart)
        assert len(wire.attempts) == 2


async def test_a_server_that_is_backing_off_is_connected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(fails=True), Life())
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))
        await pool.server("one").restart()
        assert pool.get_status("one") is ConnectionStatus.CONNECTED


async def test_a_failed_server_is_connected_at_once_and_supervised_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(is_final=True), Life())
    async with MCPPool(restart=RestartPolicy(initial_delay=0)) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, Failed))
        await pool.server("one").restart()
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        wire.kill("one")
        await eventually(lambda: pool.server("one").generation == 2)


async def test_a_restart_while_the_server_is_connecting_waits_for_that_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=0.05))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        await pool.server("one").restart()
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert len(wire.attempts) == 1


async def test_a_restart_that_fails_says_why_and_the_server_stays_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(), Life(fails=True), Life())
    async with MCPPool(restart=RestartPolicy(initial_delay=0.05)) as pool:
        await pool.connect("one", FAKE)
        with pytest.raises(ConnectError) as caught:
            await pool.server("one").restart()
        assert caught.value.attempt == 2
        await pool.wait_ready("one")
        assert pool.server("one").generation == 2


async def test_a_restart_continues_when_its_caller_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(), Life(handshake=0.1))
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        with anyio.move_on_after(0.02):
            await pool.server("one").restart()
        await pool.wait_ready("one")
        assert pool.server("one").generation == 2


async def test_a_restart_does_not_revive_a_removed_server(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        handle = pool.server("one")
        await pool.disconnect("one")
        with pytest.raises(UnknownServer):
            await handle.restart()
        assert len(wire.attempts) == 1


async def test_a_restart_does_not_revive_a_closing_server(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(closing=0.2))
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        async with anyio.create_task_group() as group:
            group.start_soon(pool.disconnect, "one")
            await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
            with pytest.raises(ConnectError, match="disconnected"):
                await pool.server("one").restart()
        assert not pool.servers
        assert len(wire.attempts) == 1


async def test_a_server_that_is_removed_during_a_restart_is_not_revived(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(), Life(handshake=1000))
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", FAKE)

        async def restart() -> None:
            with pytest.raises(ConnectError, match="disconnected"):
                await pool.server("one").restart()

        group.start_soon(restart)
        await eventually(lambda: len(wire.attempts) == 2)
        await pool.disconnect("one")
        assert not pool.servers
        assert wire.open == []
