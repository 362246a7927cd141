"""Retries of calls after a loss: only if the tool is retry_safe, once, and with an honest `may_have_run`."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import MCPServer

from helpers.calls import PROTOCOLS, Outcome, arrival, calls_of, words
from helpers.common import eventually
from helpers.http import fault, ran, raw_server
from mcp_pool import (
    CallTimeout,
    ConfigError,
    ConnectionLost,
    ConnectionStatus,
    HttpServer,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    StdioServer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

FALLING = Path(__file__).parents[1] / "servers" / "falling.py"
SOON = RestartPolicy(initial_delay=0.01, max_delay=0.05)
BOUND = 15.0
"""Seconds for a call that must end, on a slow machine too."""


def falling(directory: Path, *options: str, **fields: Any) -> StdioServer:
    """A server of `servers/falling.py` that records what arrives in the file `ledger` of a directory."""
    command = [str(FALLING), "--ledger", str(directory / "ledger"), *options]
    return StdioServer(sys.executable, ["-I", "-S", *command], **{"restart": SOON, "close_timeout": 0.5, **fields})


def process_of(pool: MCPPool) -> int:
    """The process id of the server `s`."""
    process = pool.snapshot().servers["s"].process_id
    assert process is not None
    return process


async def call(pool: MCPPool, directory: Path, tool: str, **more: Any) -> str:
    """Call a tool that ends its server the first time."""
    arguments = {"marker": str(directory / "fallen"), "progress": "progress" in more}
    return words(await pool.call_tool(f"s__{tool}", arguments, **more))


@pytest.mark.parametrize("options", PROTOCOLS)
@pytest.mark.parametrize("retry_safe", [["fall"], ("other", "f?l*")], ids=str)
async def test_a_retry_safe_tool_is_retried_on_the_next_connection(
    retry_safe: Sequence[str], options: Sequence[str], tmp_path: Path
) -> None:
    async with MCPPool({"s": falling(tmp_path, *options, retry_safe=retry_safe)}) as pool:
        with anyio.fail_after(BOUND):
            assert await call(pool, tmp_path, "fall") == "I stand"
        seen = pool.snapshot().servers["s"]
        assert (seen.generation, seen.calls_done, seen.calls_failed) == (2, 1, 0)
    assert calls_of(tmp_path / "ledger", "fall") == 2


@pytest.mark.parametrize("retry_safe", [(), ["fal", "FALL", "fall_*"], ["annotated"], "annotated"], ids=str)
async def test_a_tool_that_is_not_retry_safe_is_not_retried(retry_safe: Sequence[str], tmp_path: Path) -> None:
    async with MCPPool({"s": falling(tmp_path, retry_safe=retry_safe)}) as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost) as caught:
            await call(pool, tmp_path, "fall")
        assert caught.value.may_have_run
        await eventually(lambda: pool.server("s").generation == 2)
    assert calls_of(tmp_path / "ledger", "fall") == 1


@pytest.mark.parametrize("tool", ["fall_read_only", "fall_idempotent"])
async def test_annotated_trusts_the_annotations_of_a_tool(tool: str, tmp_path: Path) -> None:
    async with MCPPool({"s": falling(tmp_path, retry_safe="annotated")}) as pool:
        with anyio.fail_after(BOUND):
            assert await call(pool, tmp_path, tool) == "I stand"
    assert calls_of(tmp_path / "ledger", tool) == 2


@pytest.mark.parametrize("tool", ["fall_writing", "fall_destructive"])
async def test_annotated_ignores_all_other_annotations(tool: str, tmp_path: Path) -> None:
    async with MCPPool({"s": falling(tmp_path, retry_safe="annotated")}) as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost) as caught:
            await call(pool, tmp_path, tool)
        assert caught.value.may_have_run
    assert calls_of(tmp_path / "ledger", tool) == 1


@pytest.mark.parametrize("wrong", ["", "Annotated", "*"])
async def test_any_other_string_is_a_config_error(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="StdioServer: retry_safe must be a list of globs or 'annotated'") as caught:
        falling(tmp_path, retry_safe=wrong)
    assert caught.value.field == "retry_safe"


async def test_a_tool_that_crashes_its_server_runs_at_most_twice_per_call(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": falling(tmp_path, retry_safe=["crash"])}) as pool:
        for number in (1, 2):
            with anyio.fail_after(BOUND), pytest.raises(ConnectionLost) as caught:
                await pool.call_tool("s__crash")
            assert caught.value.may_have_run
            assert caught.value.generation == 2 * number
            assert calls_of(ledger, "crash") == 2 * number
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
    assert calls_of(ledger, "crash") == 4


async def test_many_calls_lost_together_are_each_retried_once_after_one_reconnect(tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(20)]
    async with MCPPool({"s": falling(tmp_path, retry_safe=["silent"])}) as pool:
        async with anyio.create_task_group() as group:
            for one in calls:
                group.start_soon(one.of, pool.call_tool, "s__silent")
            await arrival(ledger, "silent", 20)
            os.kill(process_of(pool), signal.SIGKILL)
            await arrival(ledger, "silent", 40)
            assert pool.snapshot().servers["s"].attempt == 2
            os.kill(process_of(pool), signal.SIGKILL)
        assert all(isinstance(one.error, ConnectionLost) and one.error.may_have_run for one in calls)
        await pool.wait_ready()
    assert calls_of(ledger, "silent") == 40


@pytest.mark.parametrize("end", ["call_timeout", "timeout", "cancellation"])
async def test_nothing_is_retried_after_a_timeout_or_a_cancellation(end: str, tmp_path: Path) -> None:
    spec, one = falling(tmp_path, retry_safe=["*"], call_timeout=1 if end == "call_timeout" else None), Outcome()
    async with MCPPool({"s": spec}) as pool:
        async with anyio.create_task_group() as group:
            timeout = {"timeout": 1} if end == "timeout" else {}
            group.start_soon(partial(one.of, partial(pool.call_tool, **timeout), "s__silent"))
            await arrival(tmp_path / "ledger", "silent")
            if end == "cancellation":
                group.cancel_scope.cancel()
        assert isinstance(one.error, type(None) if end == "cancellation" else CallTimeout)
        os.kill(process_of(pool), signal.SIGKILL)
        await eventually(lambda: pool.server("s").generation == 2)
        await pool.call_tool("s__echo")
    assert calls_of(tmp_path / "ledger", "silent") == 1


async def test_a_request_that_is_not_a_tool_call_is_not_retried() -> None:
    server, asked = MCPServer[Any]("library", log_level="WARNING"), list[str]()

    @server.resource("shelf://slow")
    async def shelf() -> str:
        """Never answers."""
        asked.append("shelf")
        await anyio.sleep_forever()
        return ""

    async with MCPPool({"s": InProcessServer(server, retry_safe=["*"])}) as pool, anyio.create_task_group() as group:
        read = Outcome()
        group.start_soon(read.of, pool.read_resource, "s", "shelf://slow")
        await eventually(lambda: asked)
        await pool.server("s").restart()
        await read.ended.wait()
        assert isinstance(read.error, ConnectionLost)
    assert asked == ["shelf"]


async def test_the_time_during_which_a_call_ran_does_not_count_as_waiting(tmp_path: Path) -> None:
    ledger, one = tmp_path / "ledger", Outcome()
    spec = falling(tmp_path, retry_safe=["silent"])
    async with MCPPool({"s": spec}, wait_timeout=4) as pool, anyio.create_task_group() as group:
        group.start_soon(one.of, pool.call_tool, "s__silent")
        await arrival(ledger, "silent")
        await anyio.sleep(4.2)  # longer than wait_timeout, which only limits the waiting
        os.kill(process_of(pool), signal.SIGKILL)
        await arrival(ledger, "silent", 2)
        os.kill(process_of(pool), signal.SIGKILL)
    assert isinstance(one.error, ConnectionLost)


@pytest.mark.parametrize("wait_timeout", [0, 0.3])
async def test_without_a_next_connection_in_time_the_error_is_the_first_loss(
    wait_timeout: float, tmp_path: Path
) -> None:
    spec = falling(tmp_path, retry_safe=["crash"], restart=RestartPolicy(initial_delay=60, jitter=0))
    async with MCPPool({"s": spec}, wait_timeout=wait_timeout) as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match="may have run") as caught:
            await pool.call_tool("s__crash")
        assert caught.value.may_have_run
        assert caught.value.__context__ is None
    assert calls_of(tmp_path / "ledger", "crash") == 1


async def test_a_call_whose_server_is_disconnected_may_have_run(tmp_path: Path) -> None:
    one = Outcome()
    async with MCPPool({"s": falling(tmp_path, retry_safe=["*"])}) as pool, anyio.create_task_group() as group:
        group.start_soon(one.of, pool.call_tool, "s__silent")
        await arrival(tmp_path / "ledger", "silent")
        await pool.disconnect("s", drain=0)
    assert isinstance(one.error, ConnectionLost)
    assert one.error.may_have_run
    assert calls_of(tmp_path / "ledger", "silent") == 1


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_retry_that_did_not_run_does_not_hide_that_the_first_try_may_have_run(
    options: Sequence[str], tmp_path: Path
) -> None:
    """The request is run and reset, then sent again to a port where no server listens any more."""
    ledger = tmp_path / "ledger"
    broken = [fault("reset", on="tools/call:echo", after=True)]
    async with (
        raw_server(*options, ledger=ledger, faults=broken) as server,
        MCPPool({"s": HttpServer(server.url, retry_safe=["echo"], restart=SOON)}, wait_timeout=0.5) as pool,
    ):
        await server.order(listen=False)
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match="may have run") as caught:
            await pool.call_tool("s__echo", {"text": "hello"})
        assert caught.value.may_have_run
        assert pool.get_status("s") is not ConnectionStatus.CONNECTED
    assert ran(ledger, "echo") == 1


async def test_an_explicit_timeout_covers_both_tries(tmp_path: Path) -> None:
    ledger, one = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": falling(tmp_path, retry_safe=["silent"])}) as pool, anyio.create_task_group() as group:
        start = anyio.current_time()
        group.start_soon(lambda: one.of(lambda: pool.call_tool("s__silent", timeout=4)))
        await arrival(ledger, "silent")
        os.kill(process_of(pool), signal.SIGKILL)
        await one.ended.wait()
        assert isinstance(one.error, CallTimeout)
        assert one.error.may_have_run
        assert anyio.current_time() - start >= 4
    assert calls_of(ledger, "silent") == 2


async def test_progress_of_a_retry_goes_to_the_same_function(tmp_path: Path) -> None:
    steps = list[float]()

    async def note(done: float, _total: float | None, _message: str | None) -> None:
        steps.append(done)

    async with MCPPool({"s": falling(tmp_path, retry_safe=["fall"])}) as pool:
        assert await call(pool, tmp_path, "fall", progress=note) == "I stand"
    assert steps == [1.0, 2.0]


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_over_http_a_broken_request_of_a_retry_safe_tool_is_retried_on_the_same_connection(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    broken = [fault("reset", on=f"tools/call:{tool}", times=1, after=True) for tool in ("echo", "pid")]
    async with (
        raw_server(*options, ledger=ledger, faults=broken) as server,
        MCPPool({"s": HttpServer(server.url, retry_safe=["echo"])}) as pool,
    ):
        assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        with pytest.raises(ConnectionLost) as caught:
            await pool.call_tool("s__pid")
        assert caught.value.may_have_run
        assert (pool.server("s").generation, pool.get_status("s")) == (1, ConnectionStatus.CONNECTED)
    assert (ran(ledger, "echo"), ran(ledger, "pid")) == (2, 1)


async def test_slots_survive_a_server_that_is_killed_repeatedly(tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(8)]
    async with MCPPool({"s": falling(tmp_path, retry_safe=["silent"], max_in_flight=3)}) as pool:
        async with anyio.create_task_group() as group:
            for one in calls:
                group.start_soon(one.of, pool.call_tool, "s__silent")
            for sent in (3, 6, 9, 12, 14, 16):  # three calls twice, three calls twice, two calls twice
                await arrival(ledger, "silent", sent)
                assert pool.snapshot().calls_in_flight <= 3
                os.kill(process_of(pool), signal.SIGKILL)
        assert all(isinstance(one.error, ConnectionLost) for one in calls)
        assert calls_of(ledger, "silent") == 16
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(pool.call_tool, "s__hold", {"key": str(number)})
            await arrival(ledger, "hold", 3)
            client = pool.server("s").client
            assert client is not None
            for number in range(3):
                await client.call_tool("release", {"key": str(number)})
