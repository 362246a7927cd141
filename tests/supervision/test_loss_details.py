"""The state changes at once when a server is lost; exit status and standard error are added when they are known."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from helpers.calls import Outcome, arrival
from helpers.common import PATIENCE, eventually, scripted
from helpers.fake import FAKE, fake_wire
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    StatusChanged,
)
from mcp_pool.connection.connect import Connector
from mcp_pool.connection.listing import Listings, list_all
from mcp_pool.transports.channel import Channel, DisconnectCause
from servers import read_lines
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from loguru import Message

ERROR = ConnectionStatus.ERROR
A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)
FIRST = DisconnectCause("closed its standard output", is_complete=False)
DETAILED = DisconnectCause("exited with status 3", exit_status=3, stderr_tail="out of memory")


@pytest.mark.parametrize(("policy", "state"), [(A_WHILE, BackingOff), (RestartPolicy.never(), Failed)])
async def test_a_loss_is_shown_at_once_and_again_with_its_details(
    monkeypatch: pytest.MonkeyPatch, record_logs: list[Message], policy: RestartPolicy, state: type[BackingOff | Failed]
) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool(restart=policy) as pool:
        await pool.connect("one", FAKE)
        async with pool.events() as events:
            server, channel = pool.server("one"), wire.channels["one"]
            record_logs.clear()
            channel.mark_lost(FIRST)
            assert (server.status, pool.connected_count) == (ConnectionStatus.ERROR, 0)
            first = server.state
            assert isinstance(first, state)
            assert "closed its standard output" in str(server.last_error)
            assert not record_logs, "the log tells a loss once, with its details"
            channel.complete(DETAILED)
            error = server.last_error
            assert isinstance(error, ConnectionLost)
            assert (error.exit_status, error.stderr_tail) == (3, "out of memory")
            assert server.state == attrs.evolve(first, error=error)
            assert ["exited with status 3" in message for message in record_logs] == [True]
            with anyio.fail_after(20):
                told = [await anext(events) for _ in range(2)]
    assert told == [StatusChanged("one", ERROR, 1, first.error), StatusChanged("one", ERROR, 1, error)]


async def test_details_that_come_when_the_server_is_leaving_change_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        channel = wire.channels["one"]
        channel.mark_lost(FIRST)
        async with anyio.create_task_group() as group:
            group.start_soon(pool.disconnect, "one")
            await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
        channel.complete(DETAILED)
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED


async def test_details_do_not_replace_a_complete_cause() -> None:
    channel = Channel(True)
    channel.complete(DETAILED)
    assert channel.disconnect_cause is None
    channel.mark_lost(DETAILED)
    channel.complete(FIRST)
    assert channel.disconnect_cause is DETAILED


async def test_calls_in_flight_wait_for_the_details_while_others_see_the_loss_at_once(tmp_path: Path) -> None:
    """A helper outside of the process group keeps the pipes open, so that standard error does not end."""
    call, ledger = Outcome(), tmp_path / "ledger"
    async with holding_pipes(tmp_path) as options, MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", scripted(*options, "--ledger", ledger, "--say", "out of memory", restart=A_WHILE))
        process_id = pool.snapshot().servers["one"].process_id
        assert process_id is not None
        group.start_soon(call.of, pool.call_tool, "one__silent")
        await arrival(ledger, "silent")
        async with pool.events() as events:
            os.kill(process_id, signal.SIGKILL)
            with anyio.fail_after(PATIENCE):
                first = await anext(events)
                assert isinstance(first, StatusChanged)
                assert (first.status, call.ended.is_set()) == (ERROR, False)
                second = await anext(events)
                assert isinstance(second, StatusChanged)
                await call.ended.wait()
    for error in (second.error, call.error):
        assert isinstance(error, ConnectionLost)
        assert error.exit_status == -signal.SIGKILL
        assert "out of memory" in error.stderr_tail


async def test_a_server_that_is_lost_before_it_is_open_is_never_shown_as_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answers may still be in the pipe when its exit is seen."""
    connectors: list[Connector] = []
    listed, outcome = anyio.Event(), Outcome()

    def make(*args: Any, **options: Any) -> Connector:
        connectors.append(Connector(*args, **options))
        return connectors[-1]

    async def list_and_exit(*args: Any) -> Listings:
        inventory = await list_all(*args)
        connectors[0].channel.mark_lost(FIRST)
        listed.set()
        return inventory

    monkeypatch.setattr("mcp_pool.supervision.child.Connector", make)
    monkeypatch.setattr("mcp_pool.connection.connect.list_all", list_and_exit)
    async with MCPPool() as pool, anyio.create_task_group() as group:
        group.start_soon(outcome.of, pool.connect, "one", InProcessServer(calculator()))
        await listed.wait()
        await anyio.wait_all_tasks_blocked()
        assert pool.get_status("one") is ConnectionStatus.CONNECTING
        connectors[0].channel.complete(DETAILED)
        await outcome.ended.wait()
    assert isinstance(outcome.error, ConnectError)
    assert outcome.error.exit_status == 3


@asynccontextmanager
async def holding_pipes(tmp_path: Path) -> AsyncIterator[Sequence[str]]:
    """Give the options of a server whose helper, outside of its process group, holds its pipes; end the helper."""
    pids = tmp_path / "pids"
    yield "--grandchild-holds-pipes", "--escaped", "--pid-file", str(pids)
    (helper,) = (line["pid"] for line in read_lines(pids) if line["role"] == "grandchild")
    os.kill(helper, signal.SIGKILL)


def tell_to_exit(pool: MCPPool) -> None:
    """Have the process of a `--exit-on-usr1` server exit."""
    process_id = pool.snapshot().servers["one"].process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGUSR1)


async def test_a_server_that_exits_with_status_0_while_idle_reconnects_at_once_and_then_waits() -> None:
    async with MCPPool({"one": scripted("--exit-on-usr1", restart=A_WHILE)}) as pool:
        await pool.wait_ready()
        server = pool.server("one")
        tell_to_exit(pool)
        await eventually(lambda: server.generation == 2 and server.status is ConnectionStatus.CONNECTED)
        tell_to_exit(pool)
        await eventually(lambda: server.status is ERROR and "exited with status 0" in str(server.last_error))
        state = server.state
        assert isinstance(state, BackingOff)
        assert state.next_retry_at > anyio.current_time() + 100


async def test_a_server_that_exits_with_status_0_during_a_call_is_waited_for() -> None:
    async with MCPPool({"one": scripted(restart=A_WHILE)}) as pool:
        await pool.wait_ready()
        with pytest.raises(ConnectionLost, match="exited with status 0"):
            await pool.call_tool("one__crash", {"code": 0})
        state = pool.server("one").state
        assert isinstance(state, BackingOff)
        assert state.next_retry_at > anyio.current_time() + 100
