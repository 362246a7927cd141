"""Servers over stdio: how their processes are ended, and that they can neither block this program nor fill its memory."""

from __future__ import annotations

import json
import os
import signal
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse

from helpers.calls import Outcome, arrival
from helpers.common import connection_of, eventually
from helpers.stdio import NEVER, ROOM, calls_of, program, recording_server, roles, server, text
from helpers.steps import MOST, cancel_at
from mcp_pool import ConfigError, ConnectionLost, MCPPool, StdioServer
from mcp_pool._shared.redaction import Redactor
from mcp_pool.config.target import Target
from mcp_pool.transports.channel import Channel
from mcp_pool.transports.stdio.guardian import Guardian
from mcp_pool.transports.stdio.process import ServerProcess
from mcp_pool.transports.stdio.read_ahead import PAGE
from mcp_pool.transports.stdio.stderr import LOGGED_LINES, TAIL_BYTES, StderrTail
from mcp_pool.transports.stdio.transport import INCOMING, LINES_PER_TURN, OUTGOING, stdio_transport
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream
from servers import is_alive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from loguru import Message

LONG = 60.0
"""A `close_timeout` that would fail the test if it were waited for."""
STAYS = """
import os, pathlib, signal, sys, time

def on_sigterm(*_):
    pathlib.Path(sys.argv[1]).write_text("terminated")
    if sys.argv[2] == "0":
        os._exit(0)

signal.signal(signal.SIGTERM, on_sigterm)
os.write(2, b"ready\\n")
while True:
    time.sleep(1000)
"""
"""Ignores the end of its input, and SIGTERM too if its second argument is 1."""
READS_NOTHING = "import time; time.sleep(1000)"


def descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/dev/fd").iterdir()))


def has_ended(pid: int) -> bool:
    """Whether a child of this process is a zombie; raises ChildProcessError if there is no such child."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def transport(
    spec: StdioServer, *, close_timeout: float = 5.0
) -> tuple[Channel, AbstractAsyncContextManager[tuple[Any, Any]]]:
    """A transport without a client, and its channel."""
    channel = Channel(tracked=True)
    target = Target.of(MCPPool(close_timeout=close_timeout)._supervisor.settings, "a", spec)
    return channel, _guarded(target, spec, channel)


@asynccontextmanager
async def _guarded(target: Target, spec: StdioServer, channel: Channel) -> AsyncGenerator[tuple[Any, Any]]:
    with closing(Guardian(pytest.fail)) as guardian:
        async with stdio_transport(target, spec, channel, guardian) as streams:
            yield streams


# Ending a server


async def test_a_server_that_exits_when_its_input_ends_is_not_signalled_and_costs_no_extra_wait(
    tmp_path: Path,
) -> None:
    code = tmp_path / "code"
    with anyio.fail_after(ROOM):
        async with MCPPool({"a": recording_server(code, "--exit-code", "3", close_timeout=LONG)}):
            pass
    assert code.read_text().strip() == "3"


async def test_a_server_may_take_time_to_exit(tmp_path: Path) -> None:
    code = tmp_path / "code"
    async with MCPPool({"a": recording_server(code, "--slow-exit", "0.3", "--exit-code", "3", close_timeout=30)}):
        pass
    assert code.read_text().strip() == "3"


async def test_a_server_that_writes_more_than_a_pipe_holds_while_exiting_is_not_blocked(tmp_path: Path) -> None:
    done = tmp_path / "done"
    leaving = (
        "import os, sys; sys.stdin.read(); os.write(1, b'x' * 10**6); os.write(2, b'x' * 10**6); "
        "open(sys.argv[1], 'w').close()"
    )
    with anyio.fail_after(ROOM):
        async with transport(program(leaving, str(done)), close_timeout=LONG)[1]:
            pass
    assert done.exists()


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_server_that_does_not_exit_is_terminated_and_then_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stubborn: bool
) -> None:
    monkeypatch.setattr("mcp_pool.transports.stdio.process.TERMINATE_SHARE", 5.0)  # enough to report the signal
    told = tmp_path / "told"
    channel, wire = transport(program(STAYS, str(told), str(int(stubborn))), close_timeout=0.3)
    with anyio.fail_after(ROOM):
        async with wire:
            await eventually(lambda: channel.stderr_tail() == "ready")
            pid = channel.process_id
            assert pid is not None
    assert told.read_text() == "terminated"
    assert not is_alive(pid)


@pytest.mark.parametrize("leave", ["politely", "by a crash"])
async def test_the_helpers_of_a_server_end_with_it(leave: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.transports.stdio.process.GROUP_TIMEOUT", 2.0)  # enough for a busy machine
    pids = tmp_path / "pids"
    async with MCPPool({"a": server("--helper", "--pid-file", str(pids), restart=NEVER)}) as pool:
        await pool.wait_ready()
        (helper,) = roles(pids, "helper")
        assert is_alive(helper)
        if leave == "by a crash":
            with pytest.raises(ConnectionLost):
                await pool.call_tool("a__crash")
            await eventually(lambda: not is_alive(helper))
    assert not is_alive(helper)


async def test_a_process_outside_the_group_that_holds_the_pipes_does_not_delay_closing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    options = ("--grandchild-holds-pipes", "--escaped", "--pid-file", str(pids))
    with anyio.fail_after(ROOM):
        async with MCPPool({"a": server(*options, close_timeout=LONG)}) as pool:
            await pool.wait_ready()
    (grandchild,) = roles(pids, "grandchild")
    os.kill(grandchild, signal.SIGKILL)  # having left the group, it is not the pool's to end
    await eventually(lambda: not is_alive(grandchild))


async def test_a_server_is_not_reaped_before_its_group_was_killed() -> None:
    """Otherwise its id could be reused by then, and the group of another process would be killed."""
    channel, wire = transport(program("import sys; sys.exit(3)"))
    async with wire:
        await eventually(lambda: channel.disconnect_cause and channel.disconnect_cause.is_complete)
        pid = channel.process_id
        assert pid is not None
        assert has_ended(pid)
        assert channel.disconnect_cause is not None
        assert channel.disconnect_cause.exit_status == 3
    with pytest.raises(ChildProcessError):
        has_ended(pid)


# Systems with fewer features than Linux


def forbid(*_: object) -> int:
    raise PermissionError


@pytest.mark.parametrize("trouble", [forbid, None])
async def test_an_exit_is_noticed_without_pidfd_open(
    trouble: Callable[..., int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        if trouble is None:
            patched.delattr(os, "pidfd_open")
        else:
            patched.setattr(os, "pidfd_open", trouble)
        async with MCPPool({"a": server(restart=NEVER)}) as pool:
            with pytest.raises(ConnectionLost, match="exited with status 5"):
                await pool.call_tool("a__crash", {"code": 5})


# What a server can do to this program


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_flood_of_short_lines_lets_other_tasks_run(stream: str) -> None:
    """One chunk of it holds tens of thousands of lines, which take long to handle."""
    writing = "import sys; print(*range(20_000), '', sep='\\n', end='', file=getattr(sys, sys.argv[1]), flush=True); sys.stdin.read()"
    channel, wire = transport(program(writing, stream))
    seen, steps = 0, list[int]()

    def lines() -> int:
        return (
            channel.unreadable.total if stream == "stdout" else int(channel.stderr_tail().rpartition("\n")[2] or -1) + 1
        )

    async with wire:
        with anyio.fail_after(ROOM):
            while seen < 20_000:
                before, seen = seen, lines()
                steps.append(seen - before)
                await anyio.lowlevel.checkpoint()
    assert max(steps) <= 5 * LINES_PER_TURN


async def test_messages_of_a_flood_are_taken_one_per_turn_of_the_event_loop() -> None:
    """Two per turn would be handled in any order on trio; two turns for each would make a flood take twice as long."""
    note = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}})
    writing = "import sys; print('\\n'.join([sys.argv[1]] * 1000), flush=True); print('silent', file=sys.stderr, flush=True); sys.stdin.read()"
    taken, steps = 0, list[int]()
    channel, wire = transport(program(writing, note))

    async def take(reader: Any) -> None:
        nonlocal taken
        async for _ in reader:
            taken += 1

    async with wire as (reader, _), anyio.create_task_group() as group:
        await eventually(
            lambda: channel.stderr_tail() == "silent"
        )  # otherwise turns before the first message would be counted
        group.start_soon(take, reader)
        before = taken
        with anyio.fail_after(ROOM):
            while taken < 1000:
                await anyio.lowlevel.checkpoint()
                steps.append(taken - before)
                before = taken
        group.cancel_scope.cancel()
    assert set(steps) <= {0, 1, 2}  # two: one before and one after this task's own turn
    assert len(steps) <= 1500


async def test_output_counts_as_activity_when_it_was_written_and_not_when_it_is_read() -> None:
    """Otherwise a flood would hide for a long time that its server has been stopped."""
    note = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}})
    writing = "import sys; print('\\n'.join([sys.argv[1]] * 1000), flush=True); print('silent', file=sys.stderr, flush=True); sys.stdin.read()"
    channel, wire = transport(program(writing, note))
    async with wire as (reader, _):
        await eventually(lambda: channel.stderr_tail() == "silent")
        for _ in range(PAGE // len(note) + INCOMING + 2):  # all of it is noticed before the first page has been taken
            await reader.receive()
        count = channel.activity_count
        with anyio.fail_after(ROOM):
            for _ in range(850):  # more than was read ahead
                await reader.receive()
        assert channel.activity_count == count > 0


async def test_each_message_that_is_written_separately_counts_as_activity_once() -> None:
    note = json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
    )
    writing = "import sys; [print(sys.argv[1], flush=True) for _ in sys.stdin]"
    channel, wire = transport(program(writing, note))
    async with wire as (reader, writer):
        for number in range(1, 4):
            await writer.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=number, method="x")))
            await reader.receive()
            assert channel.activity_count == number


async def test_an_answer_that_arrived_before_its_server_died_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether or not the SDK has taken it by then."""
    receive = TrackedReadStream.receive

    async def slowly(tap: TrackedReadStream) -> Any:
        item = await receive(tap)
        if (
            isinstance(item, SessionMessage)
            and isinstance(item.message, JSONRPCResponse)
            and "content" in item.message.result
        ):
            await lost.wait()
        return item

    lost = anyio.Event()
    async with MCPPool({"a": server(restart=NEVER, close_timeout=ROOM)}) as pool, anyio.create_task_group() as group:
        first, second = Outcome(), Outcome()
        await pool.wait_ready()
        monkeypatch.setattr(TrackedReadStream, "receive", slowly)
        await pool.call_tool("a__pid")  # its answer is returned by the `receive` that is already running
        for number, call in enumerate((first, second)):  # the second answer waits behind the first
            group.start_soon(call.of, pool.call_tool, "a__echo", {"text": str(number)})
        calls = connection_of(pool, "a").calls._calls
        await eventually(lambda: len(calls) == 2 and all(record.answer for record in calls))
        with pytest.raises(ConnectionLost):
            await pool.call_tool("a__crash", {"code": 5})
        lost.set()
    assert (text(first.value), text(second.value)) == ("0", "1")


async def test_the_stderr_tail_does_not_grow() -> None:
    writing = "import sys; sys.stderr.write('x' * 10**6 + '\\n' * 10**4 + 'the end'); sys.exit(3)"
    channel, wire = transport(program(writing))
    async with wire:
        await eventually(lambda: channel.disconnect_cause and channel.disconnect_cause.is_complete)
    assert channel.disconnect_cause is not None
    assert channel.disconnect_cause.stderr_tail.endswith("the end")
    assert len(channel.disconnect_cause.stderr_tail) <= TAIL_BYTES


@pytest.mark.parametrize("pause", ["sleep 0.1; ", ""], ids=["slowly", "as fast as it can"])
async def test_a_descendant_that_writes_for_ever_does_not_hide_the_exit_of_its_server(pause: str) -> None:
    writing = f"echo more >&2; echo started; while true; do echo more >&2; {pause}done"
    leaving = (
        f"import subprocess, sys; subprocess.Popen(['sh', '-c', '{writing}'], stdout=-1).stdout.readline(); sys.exit(3)"
    )
    channel, wire = transport(program(leaving))
    async with wire:
        with anyio.fail_after(ROOM):
            await eventually(lambda: channel.disconnect_cause and channel.disconnect_cause.is_complete)
    assert channel.disconnect_cause is not None
    assert (channel.disconnect_cause.exit_status, channel.disconnect_cause.stderr_tail.splitlines()[-1]) == (3, "more")


async def test_a_flood_of_standard_error_does_not_fill_the_log_which_says_how_many_lines_it_left_out(
    record_logs: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_pool.transports.stdio.stderr.LOGGED_TIME", 3600.0)
    writing = f"import sys; print(*range({LOGGED_LINES + 234}), sep='\\n', file=sys.stderr); sys.exit(3)"
    channel, wire = transport(program(writing))
    async with wire:
        await eventually(lambda: channel.disconnect_cause and channel.disconnect_cause.is_complete)
    logged = [message.record["message"] for message in record_logs if " | " in message]
    assert logged[-2:] == [f"a | {LOGGED_LINES - 1}", "a | (234 more lines within 3600.0 s)"]
    assert len(logged) == LOGGED_LINES + 1
    assert channel.disconnect_cause is not None
    assert channel.disconnect_cause.stderr_tail.endswith(str(LOGGED_LINES + 233))


async def test_standard_error_that_is_written_slowly_is_always_logged(
    record_logs: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_pool.transports.stdio.stderr.LOGGED_LINES", 1)
    monkeypatch.setattr("mcp_pool.transports.stdio.stderr.LOGGED_TIME", 0.0)
    errors = StderrTail("a", Redactor.of([]))
    for number in range(3):
        errors.add(str(number).encode())
    assert [message.record["message"] for message in record_logs] == ["a | 0", "a | 1", "a | 2"]


async def test_a_server_that_reads_nothing_delays_only_its_own_callers() -> None:
    channel, wire = transport(program(READS_NOTHING), close_timeout=0.2)
    message = SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="x", params={"text": "x" * 10**5}))
    async with wire as (_, writer):
        with anyio.move_on_after(0.1) as scope:
            for _ in range(OUTGOING + 3):
                await writer.send(message)
        assert scope.cancelled_caught
        assert channel.disconnect_cause is None


async def test_a_write_for_which_the_pipe_has_no_room_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write, tries = os.write, 0

    def write_later(descriptor: int, data: Any) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise BlockingIOError
        return write(descriptor, data)

    async with MCPPool({"a": server()}) as pool:
        await pool.wait_ready()
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", write_later)
            assert text(await pool.call_tool("a__echo", {"text": "there"})) == "there"
        assert tries > 1


@pytest.mark.parametrize("wrong", ["\ud800", {"\ud800": 1}, b"\xff", 10**400, float("nan")], ids=ascii)
async def test_an_argument_that_cannot_be_sent_harms_only_its_own_call(wrong: object) -> None:
    async with MCPPool({"a": server()}) as pool:
        with suppress(ConfigError, UnicodeError):
            await pool.call_tool("a__echo", {"text": wrong})
        assert text(await pool.call_tool("a__echo", {"text": "there"})) == "there"
        assert pool.server("a").generation == 1


async def test_meta_that_the_protocol_does_not_allow_is_refused_and_not_sent(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"a": server("--ledger", str(ledger))}) as pool:
        wrong: Any = {"progressToken": []}
        with pytest.raises(ConfigError, match=r"progressToken.*Nothing was sent"):
            await pool.call_tool("a__echo", {"text": "x"}, meta=wrong)
        assert not calls_of(ledger, "echo")


async def test_an_error_response_that_cannot_be_encoded_is_replaced_by_one_that_can() -> None:
    channel, wire = transport(program("import sys; sys.stderr.write(sys.stdin.readline()); sys.exit(3)"))
    error = ErrorData(code=0, message="\ud800")
    async with wire as (_, writer):
        await writer.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=7, error=error)))
        await eventually(lambda: channel.disconnect_cause and channel.disconnect_cause.is_complete)
    assert channel.disconnect_cause is not None
    assert '"id":7' in channel.disconnect_cause.stderr_tail


async def test_a_connection_whose_transport_accepts_no_more_messages_is_lost() -> None:
    channel = Channel(tracked=True)
    channel.is_open = True
    sender, receiver = anyio.create_memory_object_stream[Outgoing](0)
    receiver.close()
    async with TrackedWriteStream(sender, channel) as writer:
        with pytest.raises(anyio.BrokenResourceError):
            await writer.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="x")))
    assert channel.disconnect_cause is not None
    assert channel.disconnect_cause.what == "no longer accepts messages"


async def test_an_unexpected_error_in_a_task_of_the_transport_loses_the_connection_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No such error is known; if one ever happens, the connection must not appear to work and leave calls waiting."""
    waiting, ledger = Outcome(), tmp_path / "ledger"
    spec = server("--ledger", str(ledger), restart=NEVER, close_timeout=0.5)
    async with MCPPool({"a": spec}) as pool, anyio.create_task_group() as group:
        group.start_soon(waiting.of, pool.call_tool, "a__silent")
        await arrival(ledger, "silent")
        with monkeypatch.context() as patched:
            patched.setattr("mcp_pool.transports.stdio.stderr.StderrTail.add", forbid)
            with suppress(ConnectionLost):  # its answer may arrive first
                await pool.call_tool("a__stderr", {"text": "words"})
            with anyio.fail_after(ROOM):
                await waiting.ended.wait()
    assert isinstance(waiting.error, ConnectionLost)
    assert "PermissionError" in str(waiting.error)


# Cancellation


async def test_a_transport_that_is_cancelled_anywhere_leaves_nothing() -> None:
    """Every test checks that no descriptor and no process is left."""

    async def use() -> None:
        _, wire = transport(program("import sys; sys.stdout.write(sys.stdin.readline())"), close_timeout=0.5)
        async with wire as (reader, writer):
            await writer.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="x")))
            await reader.receive()

    before = descriptors()
    for number in range(MOST):
        reached = await cancel_at(number, [], use)
        assert descriptors() == before
        if not reached:
            break


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt, which would stop the event loop of the tests."""


@pytest.mark.parametrize("interrupted", ["stop", "end_input", "kill"])
async def test_a_transport_whose_closing_is_interrupted_leaves_nothing(
    interrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On trio, Ctrl-C may raise in any task, at any line."""
    original, calls = getattr(ServerProcess, interrupted), 0

    def interrupt(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Interrupt
        return original(*arguments)

    monkeypatch.setattr(ServerProcess, interrupted, interrupt)
    errors = list[BaseException]()
    with anyio.fail_after(ROOM):
        try:
            async with transport(program("import sys; sys.stdin.read()"), close_timeout=LONG)[1]:
                pass
        except (Interrupt, BaseExceptionGroup) as error:
            errors.append(error)
    assert errors


async def test_the_process_of_a_cancelled_attempt_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    async with MCPPool(close_timeout=0.2) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.connect, "a", server("--never-answer", "--stubborn", "--pid-file", str(pids)))
        await eventually(lambda: roles(pids, "server"))
        group.cancel_scope.cancel()
    assert not any(map(is_alive, roles(pids, "server")))
