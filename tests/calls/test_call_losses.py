"""Calls whose connection ends: each ends with an error that says whether it may have run, and none runs twice."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from helpers.calls import PROTOCOLS, Outcome, arrival, calls_of, with_ledger, words
from helpers.common import connection_of, eventually
from mcp_pool import CallTimeout, ConnectionLost, ConnectionStatus, MCPPool, RestartPolicy, ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

SOON = RestartPolicy(initial_delay=0.01)
PADDED = {"text": "x" * 300}
BOUND = 15.0
"""Seconds for a call that must end, on a slow machine too."""


def plain_chain(error: BaseException) -> list[BaseException]:
    """The error and its chain of causes, after a check that none of them is a group."""
    chain, link = list[BaseException](), error
    while link is not None:
        assert not isinstance(link, BaseExceptionGroup)
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_server_that_exits_during_a_call_raises_connection_lost_with_all_details(
    options: Sequence[str], tmp_path: Path
) -> None:
    async with MCPPool({"s": with_ledger(tmp_path / "ledger", *options)}) as pool:
        with pytest.raises(
            ConnectionLost, match=r"(?s)'s' exited with status 5.*may have run.*out of cheese"
        ) as caught:
            await pool.call_tool("s__crash", {"code": 5, "say": "out of cheese"})
        error = caught.value
        assert (error.server_id, error.generation, error.phase) == ("s", 1, "call")
        assert (error.may_have_run, error.exit_status, error.stderr_tail) == (True, 5, "out of cheese")
        assert plain_chain(error)[0] is error


async def test_a_server_killed_during_a_call_is_reported_with_the_signal(tmp_path: Path) -> None:
    async with MCPPool({"s": with_ledger(tmp_path / "ledger")}) as pool:
        with pytest.raises(ConnectionLost, match="SIGKILL") as caught:
            await pool.call_tool("s__kill")
        assert (caught.value.may_have_run, caught.value.exit_status) == (True, -signal.SIGKILL)


@pytest.mark.parametrize("tool", ["crash", "kill", "close_stdout", "huge"])
async def test_a_call_that_may_have_run_is_never_sent_again(tool: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    spec = with_ledger(ledger, "--huge-line", "10000", restart=SOON, max_message_size=8000, close_timeout=1)
    async with MCPPool({"s": spec}) as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost) as caught:
            await pool.call_tool(f"s__{tool}")
        assert caught.value.may_have_run
        await eventually(lambda: pool.server("s").generation == 2)
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
    assert calls_of(ledger, tool) == 1


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_call_that_the_server_certainly_did_not_read_is_sent_on_the_next_connection(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, *options, restart=SOON, close_timeout=0.2)}) as pool:
        await pool.call_tool("s__go_deaf")
        with anyio.fail_after(BOUND):
            assert words(await pool.call_tool("s__echo", {"text": "at last"})) == "at last"
        assert pool.server("s").generation == 2
        seen = pool.snapshot().servers["s"]
        assert (seen.calls_done, seen.calls_failed) == (2, 0)
    assert calls_of(ledger, "echo") == 1


async def test_consecutive_calls_to_a_server_that_does_not_read_are_all_sent_on_the_next_connection(
    tmp_path: Path,
) -> None:
    ledger, answers = tmp_path / "ledger", list[str]()
    spec = with_ledger(ledger, restart=SOON, close_timeout=0.2)
    async with MCPPool({"s": spec}, wait_timeout=10) as pool:

        async def echo(number: int) -> None:
            answers.append(words(await pool.call_tool("s__echo", {"text": str(number)})))

        await pool.call_tool("s__go_deaf")
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(echo, number)
                    await anyio.sleep(0.02)  # some are made before the loss is detected, and some after it
        assert sorted(answers) == [str(number) for number in range(10)]
        assert pool.server("s").generation == 2
    assert calls_of(ledger, "echo") == 10


async def test_with_a_wait_timeout_of_zero_a_call_that_did_not_run_says_so(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, close_timeout=0.2)}, wait_timeout=0) as pool:
        await pool.call_tool("s__go_deaf")
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match="has not run") as caught:
            await pool.call_tool("s__echo")
        assert not caught.value.may_have_run
    assert calls_of(ledger, "echo") == 0


async def test_a_partly_read_request_may_have_run_and_those_after_it_are_sent_again(
    tmp_path: Path,
) -> None:
    ledger, first, behind = tmp_path / "ledger", Outcome(), Outcome()
    large = {"text": "x" * 300_000}
    async with MCPPool({"s": with_ledger(ledger, restart=SOON)}) as pool:
        process = pool.snapshot().servers["s"].process_id
        assert process is not None
        os.kill(process, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            group.start_soon(first.of, pool.call_tool, "s__echo", large)
            await eventually(lambda: pool.snapshot().calls_in_flight == 1)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(behind.of, pool.call_tool, "s__big", {"n": 3})
            await eventually(lambda: pool.snapshot().calls_in_flight == 2)
            await anyio.wait_all_tasks_blocked()
            os.kill(process, signal.SIGKILL)
        assert isinstance(first.error, ConnectionLost)
        assert first.error.may_have_run
        assert words(behind.value) == "xxx"
        assert pool.server("s").generation == 2
    assert (calls_of(ledger, "echo"), calls_of(ledger, "big")) == (0, 1)


@pytest.mark.parametrize("ending", ["time is up", "disconnected"])
async def test_a_call_reported_as_not_run_never_runs_although_the_server_continues_to_read(
    ending: str, tmp_path: Path
) -> None:
    """More calls than fit into the pipe: one of the others is being written, and the rest wait behind it."""
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(400)]
    timeout = 2.5 if ending == "time is up" else 60
    async with MCPPool({"s": with_ledger(ledger, close_timeout=BOUND)}) as pool:
        process = pool.snapshot().servers["s"].process_id
        assert process is not None
        os.kill(process, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(partial(call.of, partial(pool.call_tool, timeout=timeout), "s__echo", PADDED))
            if ending == "disconnected":
                await eventually(lambda: pool.snapshot().calls_in_flight == len(calls))
                await anyio.wait_all_tasks_blocked()
                group.start_soon(disconnect, pool)
            for call in calls:
                await call.ended.wait()
            os.kill(process, signal.SIGCONT)
        if ending == "time is up":
            assert words(await pool.call_tool("s__big", {"n": 3})) == "xxx"
    expected = CallTimeout if ending == "time is up" else ConnectionLost | ServerUnavailable
    assert all(isinstance(call.error, expected) for call in calls)
    may_have_run = [call for call in calls if getattr(call.error, "may_have_run", False)]
    assert 0 < len(may_have_run) < len(calls)
    assert calls_of(ledger, "echo") == len(may_have_run)


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
async def test_only_calls_that_were_partly_written_may_have_run_when_a_disconnect_ends_them(
    end: signal.Signals, tmp_path: Path
) -> None:
    ledger, first, behind = tmp_path / "ledger", Outcome(), Outcome()
    async with MCPPool({"s": with_ledger(ledger, close_timeout=1)}) as pool:
        process = pool.snapshot().servers["s"].process_id
        assert process is not None
        os.kill(process, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            group.start_soon(first.of, pool.call_tool, "s__echo", {"text": "x" * 300_000})
            await eventually(lambda: pool.snapshot().calls_in_flight == 1)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(behind.of, pool.call_tool, "s__big", {"n": 3})
            await eventually(lambda: pool.snapshot().calls_in_flight == 2)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(disconnect, pool)
            await behind.ended.wait()
            os.kill(process, end)  # it continues to read, or not
        assert isinstance(first.error, ConnectionLost)
        assert first.error.may_have_run
        assert isinstance(behind.error, ConnectionLost | ServerUnavailable)
        assert not getattr(behind.error, "may_have_run", False)
    assert calls_of(ledger, "big") == 0


async def test_a_call_to_a_server_that_exited_while_idle_waits_for_the_reconnect(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, restart=SOON)}) as pool:
        process = pool.snapshot().servers["s"].process_id
        assert process is not None
        os.kill(process, signal.SIGKILL)
        await eventually(lambda: pool.get_status("s") is not ConnectionStatus.CONNECTED)
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
    assert calls_of(ledger, "echo") == 1


async def test_each_call_in_flight_gets_its_own_error_and_there_is_one_reconnect(tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(50)]
    async with MCPPool({"s": with_ledger(ledger, restart=SOON)}) as pool:
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(call.of, pool.call_tool, "s__silent")
                await arrival(ledger, "silent", len(calls))
                group.start_soon(Outcome().of, pool.call_tool, "s__crash")
        assert all(isinstance(call.error, ConnectionLost) and call.error.may_have_run for call in calls)
        assert len({id(call.error) for call in calls}) == len(calls)
        await pool.wait_ready()
        assert (pool.server("s").generation, pool.snapshot().servers["s"].attempt) == (2, 2)
    assert calls_of(ledger, "silent") == len(calls)


async def disconnect(pool: MCPPool) -> None:
    await pool.disconnect("s", drain=0)


async def close_all(pool: MCPPool) -> None:
    await pool.close_all()


async def restart(pool: MCPPool) -> None:
    await pool.server("s").restart()


async def disconnect_after_a_drain(pool: MCPPool) -> None:
    await pool.disconnect("s", drain=0.2)


async def close_all_after_a_drain(pool: MCPPool) -> None:
    await pool.close_all(drain=0.2)


@pytest.mark.parametrize("end", [disconnect, close_all, restart, disconnect_after_a_drain, close_all_after_a_drain])
@pytest.mark.parametrize("options", [*PROTOCOLS, pytest.param(("--stubborn",), id="stubborn")])
async def test_a_call_in_flight_ends_when_its_connection_is_closed(
    end: Callable[[MCPPool], Awaitable[None]], options: Sequence[str], tmp_path: Path
) -> None:
    ledger, call = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger, *options, close_timeout=0.2)}) as pool:
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as group:
                group.start_soon(call.of, pool.call_tool, "s__silent")
                await arrival(ledger, "silent")
                await end(pool)
        assert isinstance(call.error, ConnectionLost)
        assert (call.error.may_have_run, call.error.server_id, call.error.generation) == (True, "s", 1)
        plain_chain(call.error)
    assert calls_of(ledger, "silent") == 1


async def test_a_call_in_flight_ends_when_its_server_is_stopped_and_disconnected(tmp_path: Path) -> None:
    ledger, call = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger, close_timeout=0.2)}) as pool:
        process = pool.snapshot().servers["s"].process_id
        assert process is not None
        os.kill(process, signal.SIGSTOP)
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as group:
                group.start_soon(call.of, pool.call_tool, "s__echo", {"text": "x" * 300_000})
                # Before its first byte is written it has not run, and would wait for the next connection.
                await eventually(lambda: any(record.requests_sent for record in connection_of(pool, "s").calls._calls))
                await pool.disconnect("s", drain=0)
        assert isinstance(call.error, ConnectionLost)


async def test_a_call_in_flight_from_outside_the_block_ends_with_the_block(tmp_path: Path) -> None:
    ledger, call = tmp_path / "ledger", Outcome()
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as group, MCPPool({"s": with_ledger(ledger)}) as pool:
            group.start_soon(call.of, pool.call_tool, "s__silent")
            await arrival(ledger, "silent")
    assert isinstance(call.error, ConnectionLost)
    assert call.error.may_have_run


async def test_a_call_that_waits_from_outside_the_block_ends_with_the_block(tmp_path: Path) -> None:
    call = Outcome()
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as group, MCPPool(wait_timeout=None) as pool:
            pool.add("s", with_ledger(tmp_path / "ledger", "--never-answer", close_timeout=0.2))
            group.start_soon(call.of, pool.server("s").call_tool, "echo")
            await anyio.wait_all_tasks_blocked()
    assert isinstance(call.error, ServerUnavailable)


@pytest.mark.parametrize("drained", ["disconnect", "close_all"])
async def test_draining_lets_calls_in_flight_finish_and_refuses_new_ones(drained: str, tmp_path: Path) -> None:
    ledger, call, ended = tmp_path / "ledger", Outcome(), Outcome()
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        client = pool.server("s").client
        assert client is not None
        drain: Any = (
            (lambda: pool.disconnect("s", drain=30)) if drained == "disconnect" else lambda: pool.close_all(drain=30)
        )
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, "hold")
            group.start_soon(ended.of, drain)
            await eventually(lambda: pool.get_status("s") is not ConnectionStatus.CONNECTED)
            with pytest.raises((ServerUnavailable, LookupError)):
                await pool.call_tool("s__echo")
            assert not ended.ended.is_set()
            # Bypasses the pool, which refuses new calls, and does not wait for the answer to this one.
            group.start_soon(Outcome().of, client.call_tool, "release", {"key": "a"})
            with anyio.fail_after(BOUND):
                await ended.ended.wait()
        assert words(call.value) == "a"
        assert ended.error is None
    assert calls_of(ledger, "echo") == 0


async def test_a_call_that_waits_survives_attempts_that_fail(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f'test -e {gate} || exit 3; exec "$0" "$@"'
    whole = with_ledger(tmp_path / "ledger", restart=RestartPolicy(initial_delay=0.01, multiplier=1.0))
    spec = attrs.evolve(whole, command="sh", args=["-c", script, whole.command, *whole.args])
    call = Outcome()
    async with MCPPool() as pool:
        pool.add("s", spec)
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, pool.server("s").call_tool, "echo", {"text": "patience"})
            await eventually(lambda: pool.snapshot().servers["s"].attempt > 3)
            gate.touch()
        assert words(call.value) == "patience"
