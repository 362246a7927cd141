"""How the block opens: initial servers, required servers, timeouts, cancellation, and that it opens only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import alive, eventually, scripted, started
from helpers.fake import FAKE, FakeWire, Life, fake_wire
from mcp_pool import (
    BackingOff,
    ConfigError,
    ConnectError,
    ConnectionStatus,
    ConnectTimeout,
    InProcessServer,
    MCPPool,
    PoolClosed,
    RestartPolicy,
    StdioServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

    from mcp_pool.connection.attempt import Attempt

A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)
LONG = 1000.0
REQUIRED = StdioServer("a-program-that-is-never-run", required=True)


def lives(monkeypatch: pytest.MonkeyPatch, **of: Life) -> FakeWire:
    """Install a fake wire on which each server has its own script."""
    wire = fake_wire(monkeypatch)

    def life(attempt: Attempt) -> Life:
        return of[attempt.target.server_id]

    wire.script = life
    return wire


async def test_servers_given_at_opening_are_connected_when_the_block_is_open() -> None:
    servers = {"one": InProcessServer(calculator()), "two": scripted(), "three": scripted("--modern")}
    async with MCPPool(servers) as pool:
        assert pool.connected_count == 3
        assert not (await pool.call_tool("one__add", {"a": 1, "b": 2})).is_error


async def test_servers_given_at_opening_are_connected_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=LONG))
    async with MCPPool(dict.fromkeys("abcdefgh", FAKE), open_timeout=0.05) as pool:
        await eventually(lambda: len(wire.open) == 8)
        assert pool.connected_count == 0


async def test_a_server_that_fails_at_opening_does_not_stop_the_others_and_stays_supervised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lives(monkeypatch, good=Life(handshake=0.1), bad=Life(fails=True))
    async with MCPPool({"bad": FAKE, "good": FAKE}, restart=A_WHILE) as pool:
        assert pool.get_all_statuses() == {"bad": ConnectionStatus.ERROR, "good": ConnectionStatus.CONNECTED}
        assert isinstance(pool.server("bad").state, BackingOff)
        assert isinstance(pool.server("bad").last_error, ConnectError)


async def test_opening_waits_for_slow_servers_for_up_to_open_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(monkeypatch, good=Life(), slow=Life(handshake=LONG), slower=Life(handshake=LONG))
    with anyio.fail_after(20):
        async with MCPPool({"slow": FAKE, "slower": FAKE, "good": FAKE}, open_timeout=1) as pool:
            assert pool.get_all_statuses() == {
                "slow": ConnectionStatus.CONNECTING,
                "slower": ConnectionStatus.CONNECTING,
                "good": ConnectionStatus.CONNECTED,
            }


async def test_with_an_open_timeout_of_zero_opening_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=1))
    async with MCPPool({"one": FAKE}, open_timeout=0) as pool:
        assert pool.get_status("one") is ConnectionStatus.CONNECTING
        await pool.wait_ready("one")


async def test_without_an_open_timeout_opening_waits_for_every_first_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=0.3))
    async with MCPPool({"one": FAKE}, open_timeout=None) as pool:
        assert pool.get_status("one") is ConnectionStatus.CONNECTED


async def test_a_required_server_is_waited_for_beyond_the_open_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(monkeypatch, required=Life(handshake=0.3), slow=Life(handshake=LONG))
    async with MCPPool({"required": REQUIRED, "slow": FAKE}, open_timeout=0.05) as pool:
        assert pool.get_status("required") is ConnectionStatus.CONNECTED
        assert pool.get_status("slow") is ConnectionStatus.CONNECTING


async def test_the_block_does_not_open_when_a_required_server_fails(tmp_path: Path) -> None:
    servers = {
        "good": scripted("--pid-file", tmp_path / "pids"),
        "bad": scripted("--exit-at-start", 3, required=True),
    }
    entered = False
    with pytest.raises(ConnectError) as caught:
        async with MCPPool(servers, connect_timeout=2):
            entered = True
    assert not entered
    assert (caught.value.server_id, caught.value.exit_status) == ("bad", 3)
    assert not alive(tmp_path / "pids")


async def test_one_plain_error_is_raised_when_many_required_servers_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(is_final=True))
    with pytest.raises(ConnectError) as caught:
        async with MCPPool(dict.fromkeys("abc", REQUIRED)):
            pytest.fail("the block has opened")
    named = str(caught.value) + "".join(caught.value.__notes__)
    assert all(f"Server {server_id!r}" in named for server_id in "abc")


async def test_an_error_that_no_retry_can_fix_does_not_wait_for_slow_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    lives(monkeypatch, bad=Life(is_final=True), slow=Life(handshake=LONG))
    with anyio.fail_after(20), pytest.raises(ConnectError, match="Server 'bad' is not there") as caught:
        async with MCPPool({"slow": REQUIRED, "bad": REQUIRED}, open_timeout=None, connect_timeout=None):
            pytest.fail("the block has opened")
    assert "'slow'" in "".join(caught.value.__notes__)


async def test_a_required_server_is_retried_while_the_block_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True), Life(fails=True), Life())
    async with MCPPool({"one": REQUIRED}, restart=RestartPolicy(initial_delay=0.01)) as pool:
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
    assert [attempt.number for attempt in wire.attempts] == [1, 2, 3]


async def test_a_required_server_is_retried_only_until_its_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_wire(monkeypatch, Life(fails=True))
    with anyio.fail_after(60), pytest.raises(ConnectError, match="is not there"):
        async with MCPPool({"one": REQUIRED}, connect_timeout=0.2, restart=RestartPolicy(initial_delay=0.01)):
            pytest.fail("the block has opened")


@pytest.mark.parametrize("connect_timeout", [0.05, None])
async def test_a_required_server_that_hangs_keeps_the_block_from_opening_in_time(
    monkeypatch: pytest.MonkeyPatch, connect_timeout: float | None
) -> None:
    fake_wire(monkeypatch, Life(handshake=LONG))
    with pytest.raises(ConnectTimeout, match="is required, but did not connect") as caught:
        async with MCPPool({"one": REQUIRED}, connect_timeout=connect_timeout, open_timeout=0.05):
            pytest.fail("the block has opened")
    assert caught.value.server_id == "one"


async def test_the_block_does_not_open_when_a_required_server_takes_too_long(tmp_path: Path) -> None:
    servers = {
        "bad": scripted("--never-answer", "--pid-file", tmp_path / "pids", required=True, connect_timeout=0.5),
        "good": InProcessServer(calculator()),
    }
    with pytest.raises(ConnectTimeout) as caught:
        async with MCPPool(servers, open_timeout=0.05):
            pytest.fail("the block has opened")
    assert caught.value.server_id == "bad"
    assert not alive(tmp_path / "pids")


async def test_a_required_server_that_is_lost_right_after_connecting_does_not_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first outcome was a connection: the block opens, or raises the promised `ConnectError`."""
    fake_wire(monkeypatch, Life(uptime=0))
    try:
        async with MCPPool({"one": REQUIRED}, restart=A_WHILE) as pool:
            assert pool.server("one").generation == 1
    except ConnectError:
        pass


async def test_a_required_server_that_fails_later_is_treated_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool({"one": REQUIRED}, restart=A_WHILE) as pool:
        wire.kill("one")
        await anyio.wait_all_tasks_blocked()
        assert pool.get_status("one") is ConnectionStatus.ERROR


async def test_opening_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    servers = {"one": scripted("--never-answer", "--pid-file", tmp_path / "pids")}
    pool = MCPPool(servers, open_timeout=None, connect_timeout=None)

    async def enter() -> None:
        async with pool:
            pytest.fail("the block has opened")

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        await eventually(lambda: started(tmp_path / "pids"))
        group.cancel_scope.cancel()
    assert not alive(tmp_path / "pids")
    assert not pool.servers
    with pytest.raises(PoolClosed):
        await pool.connect("two", FAKE)


@pytest.mark.parametrize("with_servers", [False, True])
async def test_opening_in_a_cancelled_scope_leaves_nothing_behind(with_servers: bool) -> None:
    pool = MCPPool({"one": InProcessServer(calculator())} if with_servers else None)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with pool:
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not pool.servers
    with pytest.raises(PoolClosed):
        await pool.close_all()


async def test_opening_with_a_deadline_that_is_too_short_raises_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=LONG))
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.1):
            async with MCPPool({"one": FAKE}, open_timeout=None):
                pytest.fail("the block has opened")
    assert wire.open == []


async def test_cancel_while_the_block_opens_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=LONG))
    pool = MCPPool({"one": FAKE}, open_timeout=None)
    reached: list[str] = []

    async def enter() -> None:
        async with pool:
            await anyio.lowlevel.checkpoint()
            reached.append("body")
        reached.append("after")

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        await eventually(lambda: wire.attempts)
        pool.cancel()
    assert reached == ["after"]
    assert wire.open == []


async def test_a_pool_opens_once() -> None:
    pool = MCPPool()
    async with pool:
        await pool.connect("one", InProcessServer(calculator()))
        with pytest.raises(RuntimeError):
            async with pool:
                pytest.fail("the block has opened")
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
    with pytest.raises(PoolClosed, match="can only be opened once"):
        async with pool:
            pytest.fail("the block has opened")


async def test_a_pool_that_failed_to_open_does_not_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(is_final=True), Life())
    pool = MCPPool({"one": REQUIRED})
    with pytest.raises(ConnectError):
        async with pool:
            pytest.fail("the block has opened")
    with pytest.raises(PoolClosed):
        async with pool:
            pytest.fail("the block has opened")


def test_an_invalid_server_is_an_error_before_anything_starts() -> None:
    with pytest.raises(ConfigError) as caught:
        MCPPool({"good": FAKE, "bad": "no spec"})
    assert (caught.value.server_id, caught.value.field) == ("bad", "config")
    with pytest.raises(ConfigError) as caught:
        MCPPool([FAKE])
    assert caught.value.field == "servers"


async def test_the_mapping_of_servers_may_change_before_the_block_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch)
    servers = {"one": FAKE}
    pool = MCPPool(servers)
    servers["two"] = FAKE
    async with pool:
        assert set(pool.servers) == {"one"}
