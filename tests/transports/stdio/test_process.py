"""Ending a server's processes: all groups of its session, however the waits are left, and never those of others."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.common import eventually
from helpers.processes import children, needs_to_choose_ids, process_ids, stranger
from helpers.stdio import NEVER, ROOM, failed, process_id, roles, server, text
from mcp_pool import ConnectionLost, MCPPool, StdioServer
from mcp_pool.transports.stdio import process as process_module
from mcp_pool.transports.stdio import session
from mcp_pool.transports.stdio.exit import Exit, look_up_exit, reap
from mcp_pool.transports.stdio.guardian import Guardian
from mcp_pool.transports.stdio.process import ServerProcess, spawn
from mcp_pool.transports.stdio.session import TICK, is_still, now, start_time
from servers import is_alive, misbehaving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STUBBORN = ("--stubborn", "--helper")
PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def started(pids: Path, *options: str) -> Iterator[ServerProcess]:
    """A server's process that nobody stops, once it and its helper are running."""
    command, arguments = misbehaving(*options, "--pid-file", str(pids))
    with closing(Guardian(pytest.fail)) as guardian:
        with spawn([command, *arguments], env=os.environ, cwd=None, guardian=guardian) as process:
            while len(all_of(pids)) <= options.count("--helper"):
                assert not process.has_exited
            yield process
        assert guardian._groups == set()


def all_of(pids: Path) -> list[int]:
    """All processes of the servers."""
    return roles(pids, "server") + roles(pids, "helper")


def kill_and_reap(pid: int) -> None:
    """Do what other code in the program could do to a server."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def zombies() -> list[int]:
    """The zombies among the children of this process."""
    found = list[int]()
    for pid in process_ids():
        with suppress(OSError):
            state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            if state == "Z" and int(parent) == os.getpid():
                found.append(pid)
    return found


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """Where servers write down their processes, which are killed at the end."""
    file = tmp_path / "pids"
    yield file
    for pid in all_of(file):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# However the waits are left


def test_a_process_that_nobody_stopped_is_killed_when_its_block_is_left(pids: Path) -> None:
    """As when the event loop is gone, and its tasks are destroyed."""
    with started(pids, *STUBBORN) as process:
        pass
    assert look_up_exit(process.pid) == Exit(None), "it was not reaped"
    assert process.status == -signal.SIGKILL
    assert len(all_of(pids)) == 2
    assert not is_alive(process.pid)


@pytest.mark.parametrize("number", [1, 2, 3], ids=["end of input", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_everything_is_dead_however_the_waits_of_stop_are_left(
    error: type[BaseException], number: int, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0

    async def leave(_: Any) -> None:
        nonlocal waits
        waits += 1
        if waits == number:
            raise error
        await anyio.sleep_forever()

    def look(pid: int) -> Exit | None:
        # A killed process may exit before the third wait, which would then not begin.
        return None if waits < number == 3 else look_up_exit(pid)

    with started(pids, *STUBBORN) as process:
        with monkeypatch.context() as patched:
            patched.setattr(anyio, "wait_readable", leave)
            patched.setattr(process_module, "look_up_exit", look)
            with pytest.raises(error):
                await process.stop(0.1)
        assert process.status == -signal.SIGKILL
        assert look_up_exit(process.pid) == Exit(None), "it was not reaped"
    await eventually(lambda: not any(map(is_alive, all_of(pids))))


async def test_orphans_that_take_a_moment_to_die_are_waited_for_and_reaped(
    pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []

    def look(group: int) -> bool:
        looks.append(reap(group) or len(looks) < 3)
        return looks[-1]

    monkeypatch.setattr(process_module, "reap", look)
    with started(pids) as process:
        process.end_input()
        await process.stop(ROOM)
    assert looks[:4] == [True, True, True, False]


async def test_a_forked_child_that_leaves_the_pool_does_not_end_the_servers_of_its_parent(pids: Path) -> None:
    with started(pids, *STUBBORN) as process:
        owner, process._owner = process._owner, os.getppid()
        await process.stop(0.0)
        process.kill()
        assert all(map(is_alive, all_of(pids)))
        process._owner, process._exit = owner, None


# The exit status


async def test_the_status_of_a_server_that_other_code_reaped_is_unknown_and_its_helpers_end(pids: Path) -> None:
    """As in programs with a SIGCHLD handler that waits for any child."""
    async with MCPPool({"a": server("--helper", "--pid-file", str(pids), restart=NEVER)}) as pool:
        await pool.wait_ready()
        pid = process_id(pool, "a")
        # A helper that starts as the server ends might belong to another server with the same id, and is left alone.
        await eventually(lambda: all(now() - (start_time(each) or now()) > 2 * TICK for each in all_of(pids)))
        kill_and_reap(pid)
        await failed(pool, "a")
        await eventually(lambda: not any(map(is_alive, all_of(pids))))
        error = pool.server("a").last_error
        assert isinstance(error, ConnectionLost)
        assert error.exit_status is None
        assert "exited with an unknown status" in str(error)


async def test_an_exit_is_noticed_by_looking_again_where_the_system_does_not_notify_of_it(
    pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with started(pids) as process:
        async with anyio.create_task_group() as group:
            group.start_soon(process.wait)
            await anyio.wait_all_tasks_blocked()
            os.kill(process.pid, signal.SIGKILL)
        assert process._exit == Exit(-signal.SIGKILL)


async def test_the_status_is_unknown_where_the_program_ignores_sigchld() -> None:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with MCPPool({"a": server(restart=NEVER, close_timeout=2 * ROOM)}) as pool:
            with pytest.raises(ConnectionLost, match="exited with an unknown status") as caught:
                await pool.call_tool("a__crash", {"code": 7})
            assert caught.value.exit_status is None
            await pool.connect("b", server(close_timeout=2 * ROOM))
            with anyio.fail_after(ROOM):
                await pool.disconnect("b")
    finally:
        signal.signal(signal.SIGCHLD, handler)


# Never the processes of others


@needs_to_choose_ids
@pytest.mark.parametrize("noticed", [False, True])
async def test_a_process_id_that_has_been_reused_is_not_signalled(pids: Path, *, noticed: bool) -> None:
    with started(pids) as process:
        kill_and_reap(process.pid)
        if noticed:
            assert process.has_exited
        with stranger(process.pid) as other:
            await process.stop(0.1)
            assert other.poll() is None
            assert process._released


@needs_to_choose_ids
async def test_a_process_id_that_is_reused_during_a_wait_is_not_taken_for_the_server(pids: Path) -> None:
    with started(pids) as process:
        async with anyio.create_task_group() as group:
            group.start_soon(process.wait)
            await anyio.wait_all_tasks_blocked()
            kill_and_reap(process.pid)
            with stranger(process.pid), anyio.fail_after(ROOM):
                while not process._exit:
                    await anyio.lowlevel.checkpoint()
            assert process._exit == Exit(None)


def test_a_session_is_the_same_only_if_a_member_was_started_while_its_leader_was_running(pids: Path) -> None:
    with started(pids, "--helper") as process:
        begun, (helper,) = start_time(process.pid), roles(pids, "helper")
        of_helper = start_time(helper)
        assert begun is not None
        assert of_helper is not None
        while session.now() < of_helper + 2 * session.TICK:
            pass
        kill_and_reap(process.pid)
        assert is_still(process.pid, begun, session.now())
        assert not is_still(process.pid, begun, of_helper)
        assert not is_still(process.pid, of_helper + 1, session.now())
        assert not is_still(process.pid, None, session.now())
        os.kill(helper, signal.SIGKILL)


# Helpers with a group of their own


@pytest.mark.parametrize("leave", ["politely", "by a crash", "never"])
async def test_a_helper_that_made_a_group_of_its_own_ends_with_its_server(leave: str, pids: Path) -> None:
    options = ("--helper", "--own-group", "--pid-file", str(pids), *(("--stubborn",) if leave == "never" else ()))
    async with MCPPool({"a": server(*options, restart=NEVER, close_timeout=0.5)}) as pool:
        await pool.wait_ready()
        (helper,) = roles(pids, "helper")
        assert os.getpgid(helper) == helper
        if leave == "by a crash":
            with pytest.raises(ConnectionLost):
                await pool.call_tool("a__crash")
    await eventually(lambda: not is_alive(helper))


async def test_where_the_system_does_not_list_its_processes_the_group_of_the_server_ends(
    pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PROC", "/nowhere")
    with started(pids, *STUBBORN) as process:
        await process.stop(0.1)
        assert not is_alive(process.pid)
    await eventually(lambda: not any(map(is_alive, all_of(pids))))


# Orphans that become children of the program


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Make this process adopt the orphans among its descendants, as process 1 does."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def wrapped(*options: str) -> StdioServer:
    """A server behind two shells, as package runners start it, which leave it behind when they are terminated."""
    command, arguments = misbehaving(*options)
    return StdioServer("sh", ["-c", '"$@"; true', "sh", "sh", "-c", '"$@"; true', "sh", command, *arguments])


@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize("kind", ["polite", "helper", "helper in a group of its own", "wrapped", "killed"])
async def test_a_program_that_adopts_orphans_collects_no_zombies(kind: str, pids: Path) -> None:
    options = {"helper": ("--helper",), "helper in a group of its own": ("--helper", "--own-group")}.get(kind, ())
    where = ("--pid-file", str(pids))
    spec = wrapped("--stubborn", *where) if kind in ("wrapped", "killed") else server(*options, *where)
    before = zombies()
    async with MCPPool(close_timeout=0.5) as pool:
        for _ in range(3):
            await pool.connect("a", spec)
            if kind == "killed":
                os.kill(process_id(pool, "a"), signal.SIGKILL)
            else:
                assert text(await pool.call_tool("a__echo", {"text": "there"})) == "there"
            await pool.disconnect("a")
            assert zombies() == before
            assert not any(map(is_alive, all_of(pids)))
    assert children(os.getpid()).isdisjoint(all_of(pids))
