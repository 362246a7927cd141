"""What `close_all` promises, clause by clause."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.calls import Outcome, arrival
from helpers.common import alive, eventually, scripted, started
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import (
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    InProcessServer,
    MCPPool,
    PoolCleared,
    ServerUnavailable,
)
from servers.in_process import calculator, raising_lifespan

if TYPE_CHECKING:
    from pathlib import Path

LONG = 60.0


def is_empty(pool: MCPPool) -> bool:
    """Whether the pool's registries are all empty."""
    nothing = not pool.servers and not pool.tools and not pool.get_all_statuses() and not pool.snapshot().servers
    return nothing and pool.connected_count == 0


async def test_close_all_ends_all_servers_and_empties_every_registry(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
        await pool.connect("two", InProcessServer(calculator()))
        await pool.connect("gone", InProcessServer(calculator()))
        await pool.disconnect("gone")
        with pytest.raises(ConnectError):
            await pool.connect("failed", scripted("--exit-at-start", 1))
        pool.add("connecting", scripted("--never-answer", "--pid-file", tmp_path / "pids"))
        await eventually(lambda: len(started(tmp_path / "pids")) == 2)
        await pool.close_all()
        assert is_empty(pool)
        assert not alive(tmp_path / "pids")
        assert pool.get_status("gone") is None
        assert pool.get_status("failed") is None


async def test_close_all_of_an_empty_pool_does_nothing() -> None:
    async with MCPPool() as pool:
        await pool.close_all()
        await pool.close_all()
        assert is_empty(pool)


async def test_closing_many_stubborn_servers_takes_as_long_as_closing_one(tmp_path: Path) -> None:
    async with MCPPool(close_timeout=1.0) as pool:
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(pool.connect, str(number), scripted("--stubborn", "--pid-file", tmp_path / "pids"))
        began = time.monotonic()
        await pool.close_all()
        assert time.monotonic() - began < 10  # at least 12 if it were one after another
        assert not alive(tmp_path / "pids")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_close_all_does_not_raise_when_a_server_does(mode: str) -> None:
    async with MCPPool() as pool:
        await pool.connect("bad", InProcessServer(raising_lifespan(at_end=True), mode=mode))
        await pool.connect("good", InProcessServer(calculator()))
        await pool.close_all()
        assert is_empty(pool)


async def test_the_pool_can_be_used_again_after_close_all(tmp_path: Path) -> None:
    config = scripted("--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        for _ in range(3):
            assert await pool.connect("one", config) is True
            assert not (await pool.call_tool("one__echo")).is_error
            assert pool.server("one").generation == 1
            await pool.close_all()
            assert is_empty(pool)
    assert len(started(tmp_path / "pids")) == 3


async def test_a_server_that_was_added_right_before_close_all_is_gone_afterwards(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        pool.add("one", scripted("--pid-file", tmp_path / "pids"))
        await pool.close_all()
        assert is_empty(pool)
        assert not alive(tmp_path / "pids")


async def test_connect_during_close_all_says_that_all_servers_were_closed(tmp_path: Path) -> None:
    async with MCPPool(connect_timeout=None) as pool, anyio.create_task_group() as group:

        async def connect() -> None:
            with pytest.raises(ConnectError, match="was closed with all servers of the pool while it was"):
                await pool.connect("one", scripted("--never-answer", "--pid-file", tmp_path / "pids"))

        group.start_soon(connect)
        await eventually(lambda: started(tmp_path / "pids"))
        await pool.close_all()
        assert is_empty(pool)


async def test_concurrent_calls_of_close_all_all_wait_until_everything_has_ended(tmp_path: Path) -> None:
    left: list[list[int]] = []

    async def close() -> None:
        await pool.close_all()
        left.append(alive(tmp_path / "pids"))

    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.25, "--pid-file", tmp_path / "pids"))
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(close)
        assert is_empty(pool)
    assert left == [[]] * 5


async def test_a_server_added_during_close_all_belongs_to_the_new_child_group(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("old", scripted("--stubborn", "--pid-file", tmp_path / "pids", close_timeout=0.3))
        async with anyio.create_task_group() as group:
            group.start_soon(pool.close_all)
            await eventually(lambda: not pool.servers)
            assert alive(tmp_path / "pids")
            assert await pool.connect("new", scripted()) is True
            pool.add("newer", scripted())
        assert not alive(tmp_path / "pids")
        await pool.wait_ready()
        assert set(pool.servers) == {"new", "newer"}
        assert pool.connected_count == 2


async def test_a_server_added_with_the_id_of_a_closing_one_waits_for_it(tmp_path: Path) -> None:
    config = scripted("--slow-exit", 0.25, "--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        await pool.connect("one", config)
        async with anyio.create_task_group() as group:
            group.start_soon(pool.close_all)
            await eventually(lambda: not pool.servers)
            await pool.connect("one", config)
            assert alive(tmp_path / "pids") == started(tmp_path / "pids")[1:]
        assert pool.get_status("one") is ConnectionStatus.CONNECTED


async def test_a_server_that_close_all_is_ending_does_not_conflict_with_another_config() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.2))
        async with anyio.create_task_group() as group:
            group.start_soon(pool.close_all)
            await eventually(lambda: not pool.servers)
            await pool.connect("one", InProcessServer(calculator()))
        assert "one__add" in pool.tools


async def test_close_all_waits_for_servers_that_are_being_disconnected(tmp_path: Path) -> None:
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted("--slow-exit", 0.25, "--pid-file", tmp_path / "pids"))
        group.start_soon(pool.disconnect, "one")
        await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
        await pool.close_all()
        assert not alive(tmp_path / "pids")


async def test_cancelling_the_caller_of_close_all_does_not_stop_it(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--slow-exit", 0.25, "--pid-file", tmp_path / "pids"))
        with anyio.move_on_after(0.05) as scope:
            await pool.close_all()
        assert scope.cancelled_caught
        assert is_empty(pool)
        await eventually(lambda: not alive(tmp_path / "pids"))


async def test_close_all_called_in_a_cancelled_task_ends_everything(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await pool.close_all(drain=LONG)
        assert is_empty(pool)
        await eventually(lambda: not alive(tmp_path / "pids"))


async def test_calls_in_flight_are_lost_at_once_without_a_drain(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted("--ledger", ledger))

        async def call() -> None:
            with pytest.raises(ConnectionLost):
                await pool.call_tool("one__sleep", {"seconds": LONG})

        group.start_soon(call)
        await arrival(ledger, "sleep")  # one that had not been sent would wait for the next connection
        with anyio.fail_after(20):
            await pool.close_all()


async def test_calls_in_flight_may_finish_during_a_drain() -> None:
    results: list[Any] = []

    async def call() -> None:
        results.append(await pool.call_tool("one__sleep", {"seconds": 0.25}))

    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted())
        await pool.connect("two", InProcessServer(calculator()))
        group.start_soon(call)
        await eventually(lambda: pool.snapshot().calls_in_flight == 1)
        await pool.close_all(drain=LONG)
        assert is_empty(pool)
    assert [result.content[0].text for result in results] == ["slept 0.25 s"]


async def test_calls_that_wait_for_a_slot_do_not_start_during_a_drain(tmp_path: Path) -> None:
    ledger, first, others = tmp_path / "ledger", Outcome(), [Outcome() for _ in range(5)]
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted("--ledger", ledger, max_in_flight=1))
        group.start_soon(first.of, pool.call_tool, "one__sleep", {"seconds": 2.0})
        await arrival(ledger, "sleep")
        for call in others:
            group.start_soon(call.of, pool.call_tool, "one__echo")
        await anyio.wait_all_tasks_blocked()
        await pool.close_all(drain=LONG)
    assert first.value.content[0].text == "slept 2.0 s"
    assert all(isinstance(call.error, ServerUnavailable) for call in others)


async def test_a_later_close_all_does_not_wait_for_the_drain_of_an_earlier_one(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted("--ledger", ledger))

        async def call() -> None:
            with pytest.raises(ConnectionLost):
                await pool.call_tool("one__sleep", {"seconds": LONG})

        group.start_soon(call)
        await arrival(ledger, "sleep")
        group.start_soon(lambda: pool.close_all(drain=LONG))
        await eventually(lambda: not pool.servers)
        with anyio.fail_after(20):
            await pool.close_all()


async def test_close_all_is_a_single_event_for_readers() -> None:
    async with MCPPool() as pool:
        for name in ("one", "two", "three"):
            await pool.connect(name, InProcessServer(calculator()))
        async with pool.events() as events:
            await pool.close_all()
            pool.cancel()
    assert [event async for event in events] == [PoolCleared()]


async def test_restarting_servers_are_not_revived_by_close_all(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(), Life(handshake=LONG))
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", FAKE)

        async def restart() -> None:
            with pytest.raises(ConnectError):
                await pool.server("one").restart()

        group.start_soon(restart)
        await eventually(lambda: len(wire.attempts) == 2)
        await pool.close_all()
        assert is_empty(pool)
        assert wire.open == []
        assert len(wire.attempts) == 2
