"""What `wait_ready` promises, clause by clause."""

from __future__ import annotations

import anyio
import pytest

from helpers.common import eventually
from helpers.fake import FAKE, FakeWire, Life, fake_wire
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionLost,
    Failed,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    StdioServer,
    UnknownServer,
)
from mcp_pool.connection.attempt import Attempt
from servers.in_process import calculator

A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)
LONG = 1000.0


def lives(monkeypatch: pytest.MonkeyPatch, **of: Life) -> FakeWire:
    """Install a fake wire on which each server has its own script."""
    wire = fake_wire(monkeypatch)

    def life(attempt: Attempt) -> Life:
        return of[attempt.target.server_id]

    wire.script = life
    return wire


async def test_it_waits_until_all_servers_are_connected() -> None:
    async with MCPPool() as pool:
        for name in ("one", "two", "three"):
            pool.add(name, InProcessServer(calculator()))
        await pool.wait_ready()
        assert pool.connected_count == 3


async def test_it_waits_only_for_the_named_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(monkeypatch, one=Life(), two=Life(), hanging=Life(handshake=LONG))
    async with MCPPool() as pool:
        for name in ("one", "two", "hanging"):
            pool.add(name, FAKE)
        await pool.wait_ready("one", "two")
        assert pool.connected_count == 2


async def test_without_servers_there_is_nothing_to_wait_for() -> None:
    async with MCPPool() as pool:
        await pool.wait_ready(timeout=0)


async def test_it_returns_at_once_when_all_are_connected() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        await pool.wait_ready("one", timeout=0)


async def test_it_keeps_waiting_after_failures_that_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(fails=True), Life(fails=True), Life())
    async with MCPPool(restart=RestartPolicy(initial_delay=0.01)) as pool:
        pool.add("one", FAKE)
        await pool.wait_ready("one")
        assert pool.connected_count == 1


async def test_it_waits_until_all_are_connected_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    wire.script = lambda attempt: Life(
        handshake=0.2 if attempt.target.server_id == "two" or attempt.number == 2 else 0.0
    )
    async with MCPPool(restart=RestartPolicy(initial_delay=0)) as pool:
        pool.add("one", FAKE)
        pool.add("two", FAKE)
        await eventually(lambda: pool.connected_count >= 1)
        async with anyio.create_task_group() as group:
            group.start_soon(pool.wait_ready)
            await anyio.wait_all_tasks_blocked()
            wire.kill("one")
        assert pool.connected_count == 2


async def test_when_the_time_is_up_it_names_the_servers_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(monkeypatch, good=Life(), hanging=Life(handshake=LONG), failing=Life(fails=True))
    async with MCPPool(restart=A_WHILE) as pool:
        for name in ("good", "hanging", "failing"):
            pool.add(name, FAKE)
        await eventually(lambda: pool.server("failing").last_error)
        with pytest.raises(ServerUnavailable) as caught:
            await pool.wait_ready(timeout=0.1)
    assert caught.value.missing == ("hanging", "failing")
    assert str(caught.value) == (
        "Servers unavailable after waiting 0.1 s: 'hanging' is connecting; "
        "'failing' is backing off (last error: Server 'failing' is not there). "
        "Find out why they do not connect, or allow more time (wait_timeout)."
    )


async def test_the_error_for_one_missing_server_says_why_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(monkeypatch, good=Life(), failing=Life(fails=True))
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("good", FAKE)
        pool.add("failing", FAKE)
        await eventually(lambda: pool.server("failing").last_error and pool.connected_count == 1)
        with pytest.raises(ServerUnavailable) as caught:
            await pool.wait_ready(timeout=0.1)
    assert caught.value.server_id == "failing"
    assert isinstance(caught.value.cause, ConnectError)


async def test_a_timeout_of_zero_checks_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=LONG))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        with pytest.raises(ServerUnavailable):
            await pool.wait_ready("one", timeout=0)


async def test_the_default_timeout_is_the_pools_wait_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=LONG))
    async with MCPPool(wait_timeout=0.1) as pool:
        pool.add("one", FAKE)
        with pytest.raises(ServerUnavailable, match=r"after waiting 0\.1 s"):
            await pool.wait_ready("one")


async def test_a_timeout_of_none_waits_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=0.3))
    async with MCPPool(wait_timeout=0.05) as pool:
        pool.add("one", FAKE)
        await pool.wait_ready("one", timeout=None)
        assert pool.connected_count == 1


async def test_it_raises_the_error_of_a_failed_server() -> None:
    async with MCPPool() as pool:
        pool.add("one", StdioServer("no-such-program-anywhere"))
        with pytest.raises(ConnectError, match="no-such-program-anywhere") as caught:
            await pool.wait_ready("one", timeout=None)
        assert caught.value.server_id == "one"
        assert isinstance(pool.server("one").state, Failed)


async def test_it_raises_the_loss_of_a_failed_server(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(uptime=0))
    async with MCPPool(restart=RestartPolicy.never()) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, Failed))
        with pytest.raises(ConnectionLost):
            await pool.wait_ready("one")


@pytest.mark.parametrize("order", [("hanging", "stopped"), ("stopped", "hanging")])
async def test_a_final_failure_is_raised_at_once_even_if_other_servers_are_missing(
    monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
) -> None:
    lives(monkeypatch, hanging=Life(handshake=LONG), stopped=Life(handshake=0.1, is_final=True))
    async with MCPPool() as pool:
        for name in order:
            pool.add(name, FAKE)
        with anyio.fail_after(8), pytest.raises(ConnectError) as caught:
            await pool.wait_ready(timeout=None)
        assert caught.value.server_id == "stopped"


async def test_a_server_that_is_disconnected_meanwhile_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=LONG))
    async with MCPPool() as pool, anyio.create_task_group() as group:
        pool.add("one", FAKE)

        async def wait() -> None:
            with pytest.raises(ServerUnavailable, match="was disconnected") as caught:
                await pool.wait_ready("one", timeout=None)
            assert caught.value.missing == ("one",)

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await pool.disconnect("one")


async def test_it_fails_when_close_all_is_called_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=LONG))
    async with MCPPool() as pool, anyio.create_task_group() as group:
        pool.add("one", FAKE)

        async def wait() -> None:
            with pytest.raises(ServerUnavailable):
                await pool.wait_ready(timeout=None)

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await pool.close_all()


async def test_an_unknown_server_is_an_error_at_once() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        with pytest.raises(UnknownServer) as caught:
            await pool.wait_ready("one", "two", timeout=None)
        assert caught.value.server_id == "two"


async def test_waiting_does_not_start_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))
        with pytest.raises(ServerUnavailable):
            await pool.wait_ready("one", timeout=0.05)
        assert len(wire.attempts) == 1
