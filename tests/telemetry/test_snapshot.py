"""What `snapshot` contains."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import anyio
import attrs
import pytest
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from helpers.common import eventually, scripted, started
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    InProcessServer,
    MCPPool,
    Ready,
    RestartPolicy,
    StdioServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000, jitter=0)


async def test_a_connected_server_is_shown_with_its_process_and_protocol(tmp_path: Path) -> None:
    async with MCPPool() as pool:
        before = anyio.current_time()
        await pool.connect("one", scripted("--modern", "--pid-file", tmp_path / "pids"))
        snapshot = pool.snapshot()
        one = snapshot.servers["one"]
        assert (one.server_id, one.status, one.state) == ("one", ConnectionStatus.CONNECTED, "Ready")
        assert before <= one.since <= snapshot.time <= anyio.current_time()
        assert (one.generation, one.attempt, one.restarts) == (1, 1, 0)
        assert (one.last_error, one.next_retry_at) == (None, None)
        assert one.protocol_version in MODERN_PROTOCOL_VERSIONS
        assert [one.process_id] == started(tmp_path / "pids")


async def test_an_in_process_server_has_no_process_id() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator(), mode="legacy"))
        one = pool.snapshot().servers["one"]
        assert one.process_id is None
        assert one.protocol_version is not None
        assert one.protocol_version not in MODERN_PROTOCOL_VERSIONS


async def test_a_server_that_is_connecting_has_neither_process_nor_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=1000))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        one = pool.snapshot().servers["one"]
        assert (one.status, one.state) == (ConnectionStatus.CONNECTING, "Connecting")
        assert (one.generation, one.attempt, one.restarts) == (0, 1, 0)
        assert (one.protocol_version, one.process_id) == (None, None)


async def test_a_server_that_is_backing_off_shows_why_and_when_it_will_be_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: pool.snapshot().servers["one"].state == "BackingOff")
        one = pool.snapshot().servers["one"]
        assert one.status is ConnectionStatus.ERROR
        assert isinstance(one.last_error, ConnectError)
        assert one.next_retry_at == one.since + 1000
        assert (one.generation, one.attempt) == (0, 1)


async def test_a_failed_server_shows_why_and_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(is_final=True))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        await eventually(lambda: pool.snapshot().servers["one"].state == "Failed")
        one = pool.snapshot().servers["one"]
        assert isinstance(one.last_error, ConnectError)
        assert one.next_retry_at is None


async def test_a_server_that_is_being_disconnected_is_shown_as_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(closing=0.2))
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", FAKE)
        group.start_soon(pool.disconnect, "one")
        await eventually(lambda: pool.snapshot().servers["one"].state == "Closing")
        assert pool.snapshot().servers["one"].status is ConnectionStatus.DISCONNECTED
        assert pool.snapshot().connected == 0


async def test_a_reconnected_server_shows_its_restarts_and_its_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool(restart=RestartPolicy(initial_delay=0)) as pool:
        await pool.connect("one", FAKE)
        for generation in (2, 3):
            wire.kill("one")
            await eventually(lambda generation=generation: pool.snapshot().servers["one"].generation == generation)
        one = pool.snapshot().servers["one"]
        assert (one.generation, one.attempt, one.restarts) == (3, 3, 2)
        assert one.status is ConnectionStatus.CONNECTED
        assert isinstance(one.last_error, ConnectionLost)
        assert pool.snapshot().restarts == 2


async def test_calls_are_counted_while_they_run_when_they_are_done_and_when_they_fail() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted())
        await pool.connect("two", InProcessServer(calculator()))
        async with anyio.create_task_group() as group:
            group.start_soon(pool.call_tool, "one__silent")
            group.start_soon(pool.call_tool, "two__sleep", {"seconds": 1000})
            await eventually(lambda: pool.snapshot().calls_in_flight == 2)
            assert pool.snapshot().servers["one"].calls_in_flight == 1
            group.cancel_scope.cancel()
        for _ in range(3):
            await pool.call_tool("one__echo")
        one, two = (pool.snapshot().servers[name] for name in ("one", "two"))
        assert (one.calls_in_flight, one.calls_done, one.calls_failed) == (0, 3, 1)
        assert (two.calls_in_flight, two.calls_done, two.calls_failed) == (0, 0, 1)


async def test_a_state_has_wall_clock_times_too(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(fails=True))
    started_at = time.time()
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: pool.snapshot().servers["one"].state == "BackingOff")
        one, state = pool.snapshot().servers["one"], pool.server("one").state
        assert isinstance(state, BackingOff)
        assert started_at <= one.since_timestamp <= time.time()
        assert one.next_retry_timestamp == pytest.approx(one.since_timestamp + 1000)
        assert (state.since_timestamp, state.next_retry_timestamp) == (one.since_timestamp, one.next_retry_timestamp)
        plain = pool.snapshot().to_dict()["servers"]["one"]
        assert (plain["since_timestamp"], plain["next_retry_timestamp"]) == (
            one.since_timestamp,
            one.next_retry_timestamp,
        )
        assert (
            pool.snapshot().servers["one"].since_timestamp == one.since_timestamp
        )  # the time of the state, not of the snapshot


def test_states_are_compared_without_their_wall_clock_times() -> None:
    one, other = (Ready(attempt=1, generation=1, since=5.0, since_timestamp=wall) for wall in (1.0, 2.0))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Ready(attempt=1, generation=1, since=6.0, since_timestamp=1.0)


async def test_totals_are_sums_over_all_servers() -> None:
    async with MCPPool() as pool:
        for name in ("one", "two"):
            await pool.connect(name, InProcessServer(calculator()))
            await pool.call_tool(f"{name}__echo", {"text": "x"})
            await pool.server(name).restart()
        snapshot = pool.snapshot()
        assert (snapshot.connected, snapshot.restarts) == (2, 2)
        assert (snapshot.calls_in_flight, snapshot.calls_done, snapshot.calls_failed) == (0, 2, 0)


async def test_a_snapshot_is_frozen_and_does_not_change() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        snapshot = pool.snapshot()
        await pool.disconnect("one")
        assert set(snapshot.servers) == {"one"}
        assert snapshot.servers["one"].status is ConnectionStatus.CONNECTED
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            snapshot.time = 0.0
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            snapshot.servers["one"].attempt = 5
        with pytest.raises(TypeError):
            snapshot.servers["two"] = snapshot.servers["one"]


async def test_before_and_after_the_block_a_snapshot_is_empty() -> None:
    pool = MCPPool()
    assert (pool.snapshot().servers, pool.snapshot().time) == ({}, None)
    async with pool:
        await pool.connect("one", InProcessServer(calculator()))
    assert (pool.snapshot().servers, pool.snapshot().time) == ({}, None)


async def test_a_snapshot_is_plain_json() -> None:
    async with MCPPool({"one": InProcessServer(calculator()), "bad": StdioServer("no-such-program-anywhere")}) as pool:
        await pool.call_tool("one__add", {"a": 1, "b": 2})
        assert (await pool.call_tool("one__fail")).is_error
        plain = json.loads(json.dumps(pool.snapshot().to_dict()))
    assert (plain["connected"], plain["calls_done"], plain["tool_errors"]) == (1, 2, 1)
    assert (plain["calls_failed"], plain["calls_in_flight"], plain["restarts"]) == (0, 0, 0)
    one, bad = plain["servers"]["one"], plain["servers"]["bad"]
    assert (one["status"], one["state"], one["calls_done"], one["tool_errors"]) == ("connected", "Ready", 2, 1)
    assert (bad["status"], bad["state"], bad["last_error"]["type"]) == ("error", "Failed", "ConnectError")
    assert "no-such-program-anywhere" in bad["last_error"]["reason"]
    assert bad["last_error"]["advice"]
