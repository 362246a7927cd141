"""What `connect` and `add` promise, clause by clause."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import alive, eventually, scripted, started
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import (
    BackingOff,
    ConfigError,
    ConnectError,
    Connecting,
    ConnectionStatus,
    ConnectTimeout,
    Failed,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerAdded,
    StatusChanged,
    StdioServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message

A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)


def warnings(messages: list[Message]) -> list[str]:
    return [message.record["message"] for message in messages if message.record["level"].name == "WARNING"]


async def connect_cancelled(pool: MCPPool, config: StdioServer, pid_file: Path) -> None:
    """Call `connect`, and cancel the call when the server's process is running."""
    async with anyio.create_task_group() as group:
        group.start_soon(pool.connect, "one", config)
        await eventually(lambda: started(pid_file))
        group.cancel_scope.cancel()


async def test_connect_returns_true_when_the_server_is_connected() -> None:
    async with MCPPool() as pool:
        assert await pool.connect("one", scripted()) is True
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert pool.connected_count == 1


async def test_connecting_a_connected_server_with_an_equal_config_logs_a_warning_and_returns_true(
    tmp_path: Path, record_logs: list[Message]
) -> None:
    options = ("--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        await pool.connect("one", scripted(*options))
        assert warnings(record_logs) == []
        assert await pool.connect("one", scripted(*options)) is True
        assert warnings(record_logs) == ["Server 'one' is already connected"]
        assert pool.server("one").generation == 1
    assert len(started(tmp_path / "pids")) == 1


async def test_connecting_a_connected_server_with_another_config_is_an_error_and_disturbs_nothing(
    tmp_path: Path,
) -> None:
    async with MCPPool() as pool:
        await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
        with pytest.raises(ConfigError) as caught:
            await pool.connect("one", scripted("--modern", "--pid-file", tmp_path / "pids"))
        assert (caught.value.server_id, caught.value.field) == ("one", "config")
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert pool.server("one").generation == 1
        assert (await pool.call_tool("one__pid")).content[0].text == str(*started(tmp_path / "pids"))


async def test_another_config_for_a_connecting_server_is_an_error_and_disturbs_nothing(tmp_path: Path) -> None:
    config = scripted("--slow-start", 0.25, "--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.connect, "one", config)
            await eventually(lambda: started(tmp_path / "pids"))
            with pytest.raises(ConfigError):
                await pool.connect("one", scripted())
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
    assert len(started(tmp_path / "pids")) == 1


async def test_after_a_failure_the_status_is_error_and_the_child_has_ended() -> None:
    async with MCPPool() as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("one", scripted("--exit-at-start", 3))
        assert (caught.value.server_id, caught.value.exit_status) == ("one", 3)
        assert pool.get_status("one") is ConnectionStatus.ERROR
        assert not pool.servers
        assert not [task for task in anyio.get_running_tasks() if "'one'" in str(task.name)]


async def test_a_connect_that_takes_too_long_raises_connect_timeout(tmp_path: Path) -> None:
    async with MCPPool(connect_timeout=0.5) as pool:
        with pytest.raises(ConnectTimeout) as caught:
            await pool.connect("one", scripted("--never-answer", "--pid-file", tmp_path / "pids"))
        assert isinstance(caught.value, TimeoutError)
        assert pool.get_status("one") is ConnectionStatus.ERROR
        assert not pool.servers
        assert not alive(tmp_path / "pids")


async def test_connect_may_be_called_again_after_a_failure() -> None:
    async with MCPPool() as pool:
        for config in (scripted("--exit-at-start", 3), StdioServer("no-such-program-anywhere")):
            with pytest.raises(ConnectError):
                await pool.connect("one", config)
        assert await pool.connect("one", scripted()) is True
        assert pool.get_status("one") is ConnectionStatus.CONNECTED


async def test_concurrent_connects_of_one_id_share_one_attempt(tmp_path: Path) -> None:
    outcomes: list[bool] = []

    async def connect() -> None:
        outcomes.append(await pool.connect("one", scripted("--pid-file", tmp_path / "pids")))

    async with MCPPool() as pool:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(connect)
        assert outcomes == [True] * 20
        assert pool.server("one").generation == 1
    assert len(started(tmp_path / "pids")) == 1


async def test_when_a_shared_attempt_fails_each_caller_gets_its_own_error(tmp_path: Path) -> None:
    errors: list[ConnectError] = []

    async def connect() -> None:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("one", scripted("--fail-initialize", "--pid-file", tmp_path / "pids"))
        errors.append(caught.value)

    async with MCPPool() as pool, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(connect)
    assert {str(error) for error in errors} == {str(errors[0])}
    assert len({id(error) for error in errors}) == 5
    assert len(started(tmp_path / "pids")) == 1


async def test_an_attempt_continues_when_one_of_its_callers_is_cancelled(tmp_path: Path) -> None:
    config = scripted("--slow-start", 0.25, "--pid-file", tmp_path / "pids")
    outcomes: list[bool] = []

    async def connect() -> None:
        outcomes.append(await pool.connect("one", config))

    async with MCPPool() as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(connect)
            await connect_cancelled(pool, config, tmp_path / "pids")
        assert outcomes == [True]
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
    assert len(started(tmp_path / "pids")) == 1


async def test_an_attempt_is_cancelled_with_its_last_caller(tmp_path: Path) -> None:
    config = scripted("--never-answer", "--pid-file", tmp_path / "pids")
    async with MCPPool(connect_timeout=None) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(connect_cancelled, pool, config, tmp_path / "pids")
            group.start_soon(connect_cancelled, pool, config, tmp_path / "pids")
        assert pool.get_status("one") is not ConnectionStatus.CONNECTING
        await eventually(lambda: not pool.servers)
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED
        assert not alive(tmp_path / "pids")
    assert len(started(tmp_path / "pids")) == 1


async def test_connect_can_be_called_right_after_the_last_caller_was_cancelled(tmp_path: Path) -> None:
    config = scripted("--slow-start", 0.3, "--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        await connect_cancelled(pool, config, tmp_path / "pids")
        assert await pool.connect("one", config) is True
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert len(alive(tmp_path / "pids")) == 1


async def test_an_attempt_started_by_add_continues_when_all_callers_of_connect_are_cancelled(tmp_path: Path) -> None:
    config = scripted("--slow-start", 0.25, "--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        pool.add("one", config)
        await connect_cancelled(pool, config, tmp_path / "pids")
        await pool.wait_ready("one", timeout=20)
    assert len(started(tmp_path / "pids")) == 1


async def test_connect_does_not_wait_when_the_server_is_backing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True), Life())
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))
        assert await pool.connect("one", FAKE) is True
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert len(wire.attempts) == 2


async def test_connect_does_not_wait_when_the_server_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(is_final=True), Life())
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, Failed))
        assert await pool.connect("one", FAKE) is True
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert len(wire.attempts) == 2


async def test_a_server_that_was_backing_off_stays_supervised_when_connect_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))
        with pytest.raises(ConnectError) as caught:
            await pool.connect("one", FAKE)
        assert caught.value.attempt == 2
        assert isinstance(pool.server("one").state, BackingOff)
        assert len(wire.attempts) == 2


async def test_many_connects_of_a_server_that_is_backing_off_cause_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True), Life(handshake=0.05))
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(pool.connect, "one", FAKE)
        assert len(wire.attempts) == 2


async def test_connect_waits_until_a_closing_server_with_the_same_id_has_ended(tmp_path: Path) -> None:
    config = scripted("--slow-exit", 0.25, "--pid-file", tmp_path / "pids")
    async with MCPPool() as pool:
        await pool.connect("one", config)
        async with anyio.create_task_group() as group:
            group.start_soon(pool.disconnect, "one")
            await eventually(lambda: pool.get_status("one") is ConnectionStatus.DISCONNECTED)
            assert await pool.connect("one", config) is True
            assert alive(tmp_path / "pids") == started(tmp_path / "pids")[1:]
        assert pool.get_status("one") is ConnectionStatus.CONNECTED


async def test_a_connected_server_is_supervised_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool(restart=RestartPolicy(initial_delay=0)) as pool:
        await pool.connect("one", FAKE)
        wire.kill("one")
        await eventually(lambda: pool.server("one").generation == 2)


async def test_add_returns_at_once() -> None:
    async with MCPPool() as pool:
        pool.add("one", InProcessServer(calculator()))
        assert isinstance(pool.server("one").state, Connecting)
        assert pool.get_status("one") is ConnectionStatus.CONNECTING
        await pool.wait_ready("one")


async def test_an_added_server_is_retried_under_its_restart_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(fails=True), Life(fails=True), Life(fails=True), Life())
    async with MCPPool(restart=RestartPolicy(initial_delay=0.01)) as pool:
        pool.add("one", FAKE)
        await pool.wait_ready("one", timeout=20)
        assert pool.server("one").state.attempt == 4


async def test_adding_a_current_id_with_an_equal_config_does_nothing() -> None:
    server = calculator()
    async with MCPPool() as pool, pool.events() as events:
        pool.add("one", InProcessServer(server))
        pool.add("one", InProcessServer(server))
        await pool.wait_ready("one")
        pool.add("one", InProcessServer(server))
        assert pool.server("one").generation == 1
        await pool.disconnect("one")
        await pool.close_all()
        pool.cancel()
    assert [event async for event in events if isinstance(event, ServerAdded)] == [ServerAdded("one")]


async def test_adding_a_current_id_with_another_config_is_an_error_and_disturbs_nothing() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        with pytest.raises(ConfigError) as caught:
            pool.add("one", InProcessServer(calculator()))
        assert (caught.value.server_id, caught.value.field) == ("one", "config")
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert pool.server("one").generation == 1


async def test_add_keeps_a_connecting_server_when_its_attempt_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_wire(monkeypatch, Life(handshake=0.1, fails=True))
    async with MCPPool(restart=A_WHILE) as pool, anyio.create_task_group() as group:

        async def connect() -> None:
            with pytest.raises(ConnectError):
                await pool.connect("one", FAKE)

        group.start_soon(connect)
        await eventually(lambda: "one" in pool.servers)
        pool.add("one", FAKE)
        await eventually(lambda: isinstance(pool.server("one").state, BackingOff))


async def test_add_retries_a_server_whose_connect_has_just_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the time between the failure and the end of the child, an `add` in between is not lost."""
    fake_wire(monkeypatch, Life(fails=True), Life())

    async def add_at_once() -> None:
        async with pool.events() as events:
            async for event in events:
                if isinstance(event, StatusChanged) and event.status is ConnectionStatus.ERROR:
                    pool.add("one", FAKE)
                    return

    async with MCPPool(restart=RestartPolicy(initial_delay=0), wait_timeout=10) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(add_at_once)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ConnectError):
                await pool.connect("one", FAKE)
        await pool.wait_ready("one")


async def test_connect_retries_a_server_whose_connect_has_just_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    wire.script = lambda _attempt: Life(fails=len(wire.attempts) == 0)

    async def connect_at_once() -> None:
        async with pool.events() as events:
            async for event in events:
                if isinstance(event, StatusChanged) and event.status is ConnectionStatus.ERROR:
                    assert await pool.connect("one", FAKE) is True
                    return

    async with MCPPool() as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(connect_at_once)
            await anyio.wait_all_tasks_blocked()
            try:
                await pool.connect("one", FAKE)
            except ConnectError:
                pass  # from the first attempt, unless it joined the second
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
        assert len(wire.attempts) == 2


async def test_without_a_connect_timeout_an_attempt_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool(connect_timeout=None) as pool:
        await pool.connect("one", FAKE)
        await pool.connect("two", StdioServer("never-run", connect_timeout=5))
        assert wire.deadlines[0] == math.inf
        assert wire.deadlines[1] < math.inf
