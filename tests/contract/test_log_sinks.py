"""A log sink that raises, as on a full disk: log lines are lost, and nothing else happens."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from loguru import logger

from helpers.callbacks import asking, said
from helpers.calls import answering, words
from helpers.common import eventually, scripted
from helpers.http import fault, raw_server
from helpers.http_calls import BOUND
from helpers.stdio import process_id
from helpers.user_code import pool_with_a_good_server, stands
from mcp_pool import (
    BackingOff,
    CallTimeout,
    ClientCallbacks,
    ConnectError,
    Failed,
    HttpServer,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    SseServer,
    StdioServer,
)
from servers.in_process import calculator, raising_lifespan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MISSING = StdioServer("a-program-that-is-nowhere")
SOON = RestartPolicy(initial_delay=0.01)
NO_SPACE = OSError(28, "No space left on device")


class Lost(list[str]):
    """The lines that the sink got and could not write."""

    def write(self, message: str) -> None:
        self.append(message)
        raise NO_SPACE

    def contains(self, text: str) -> bool:
        """Whether one of them has this text."""
        return any(text in line for line in self)


@pytest.fixture
def lost() -> Iterator[Lost]:
    """A sink that raises for every line of the package, and whose errors reach the code that logs."""
    lines = Lost()
    sink = logger.add(lines.write, level=0, format="{level} {message}", filter="mcp_pool", catch=False)
    logger.enable("mcp_pool")
    yield lines
    logger.disable("mcp_pool")
    logger.remove(sink)


async def fail(*_: object) -> None:
    raise RuntimeError("user code failed")


async def test_a_server_that_is_killed_reconnects_although_sinks_raise(lost: Lost) -> None:
    async with pool_with_a_good_server() as pool:
        await pool.connect("s", answering(restart=SOON, close_timeout=0.5))
        os.kill(process_id(pool, "s"), signal.SIGKILL)
        await eventually(lambda: stands(pool, generation=2))
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
    assert lost.contains("WARNING Server 's' was killed by SIGKILL (9)")
    assert lost.contains("INFO Server 's' is connected (connection 2")


async def test_a_block_with_a_server_that_is_down_ends_although_sinks_raise(lost: Lost) -> None:
    with anyio.fail_after(BOUND):
        async with MCPPool(close_timeout=0.5) as pool:
            pool.add("s", scripted("--exit-at-start", 3, "--say", "never again", restart=SOON))
            await eventually(lambda: pool.server("s").state.attempt > 2)
    assert lost.contains("WARNING Server 's' (attempt 2) exited with status 3")
    assert lost.contains("DEBUG s | never again")


async def test_the_last_attempt_raises_and_the_state_agrees(lost: Lost) -> None:
    async with pool_with_a_good_server() as pool:
        with pytest.raises(ConnectError, match="could not be started"):
            await pool.connect("one", MISSING)
        pool.add("two", MISSING)
        await eventually(lambda: isinstance(pool.server("two").state, Failed))
        assert "could not be started" in str(pool.server("two").last_error)
        with pytest.raises(ConnectError, match="could not be started"):
            await pool.connect("two", MISSING)
        assert isinstance(pool.server("two").state, Failed)
        assert pool.connected_count == 1
    assert lost.contains("ERROR Server 'two' (attempt 1) could not be started")


async def test_an_attempt_that_is_retried_is_followed_by_the_next(lost: Lost, tmp_path: Path) -> None:
    here = tmp_path / "here"
    code = f'[ -e {here} ] || exit 3; exec "$@"'
    good = answering()
    async with pool_with_a_good_server() as pool:
        pool.add("s", StdioServer("sh", ["-c", code, "sh", good.command, *good.args], restart=SOON))
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))
        here.touch()
        await eventually(lambda: pool.server("s").generation == 1)
        assert words(await pool.call_tool("s__echo", {"text": "here"})) == "here"
    assert lost.contains("WARNING Server 's' (attempt 1) exited with status 3")


async def test_a_server_that_floods_standard_error_stays_connected_and_its_calls_work(lost: Lost) -> None:
    async with pool_with_a_good_server() as pool:
        await pool.connect("s", answering("--flood-stderr", close_timeout=0.5))
        for number in range(20):
            assert words(await pool.call_tool("s__echo", {"text": str(number)})) == str(number)
        await eventually(lambda: sum(line.startswith("DEBUG s | ") for line in lost) > 100)
        assert stands(pool)


async def test_a_server_that_writes_garbage_stays_connected_and_its_calls_work(lost: Lost) -> None:
    async with pool_with_a_good_server() as pool:
        await pool.connect("s", answering())
        await pool.call_tool("s__garbage", {"lines": 3})
        assert words(await pool.call_tool("s__echo", {"text": "fine"})) == "fine"
        assert stands(pool)
    assert lost.contains("WARNING Server 's' writes lines to standard output that are not JSON-RPC")


async def test_a_progress_function_and_callbacks_that_raise_disturb_nothing(lost: Lost) -> None:
    callbacks = ClientCallbacks(sampling=fail, elicitation=fail, list_roots=fail, logging=fail, message=fail)
    async with pool_with_a_good_server() as pool:
        result = await pool.call_tool("good__progress", {"n": 2}, progress=fail)
        assert words(result) == "2 steps done"
        await pool.connect("s", asking("legacy stdio", callbacks=callbacks))
        for tool in ("model", "person", "roots"):
            assert "error" in await said(pool, tool)
        assert await said(pool, "tell", arguments={"count": 1}) == "told"
        assert stands(pool)
    assert lost.contains("WARNING The progress function of a call to server 'good' raised RuntimeError")
    assert lost.contains("WARNING Server 's': callback failures: 1; the latest raised RuntimeError")


async def test_actions_that_are_only_logged_are_still_carried_out(lost: Lost) -> None:
    spec = InProcessServer(calculator())
    async with pool_with_a_good_server() as pool:
        assert await pool.disconnect("nobody") is False
        assert await pool.connect("s", spec) is True
        assert await pool.connect("s", spec) is True
        assert await pool.disconnect("s") is True
    assert lost.contains("WARNING There is no server 'nobody' to disconnect")
    assert lost.contains("WARNING Server 's' is already connected")


async def test_a_modern_server_whose_logging_callback_will_never_be_called_is_connected(lost: Lost) -> None:
    async with pool_with_a_good_server() as pool:
        await pool.connect("s", InProcessServer(calculator(), callbacks=ClientCallbacks(logging=fail)))
        assert stands(pool)
    assert lost.contains("to receive its log messages, set log_level in client_options")


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_an_http_server_that_rejects_notifications_stays_connected(lost: Lost, kind: type[Any]) -> None:
    async with (
        raw_server(faults=[fault("status", 503, on="notifications/cancelled")]) as server,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", kind(server.sse_url if kind is SseServer else server.url, mode="legacy"))
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__silent", timeout=0.1)
        how = "rejected a message" if kind is SseServer else "answered"
        told = f"DEBUG Server 's' did not accept a notification: it {how} with HTTP status 503"
        await eventually(lambda: lost.contains(told))
        assert words(await pool.call_tool("s__echo", {"text": "fine"})) == "fine"
        assert stands(pool)


async def test_a_server_that_fails_while_it_closes_is_disconnected(lost: Lost) -> None:
    async with pool_with_a_good_server() as pool:
        await pool.connect("s", InProcessServer(raising_lifespan(at_end=True)))
        assert await pool.disconnect("s")
        assert "s" not in pool.servers
        await pool.connect("s", InProcessServer(raising_lifespan(at_end=True)))
    assert lost.contains("DEBUG Closing server 's'")


async def test_a_lost_log_line_is_reported_on_standard_error_without_its_text(
    lost: Lost, capsys: pytest.CaptureFixture[str]
) -> None:
    async with pool_with_a_good_server() as pool:
        lost.clear()
        capsys.readouterr()
        await pool.disconnect("nobody")
        assert len(lost) == 1
        assert capsys.readouterr().err == "mcp_pool: a log sink raised OSError; the line was lost\n"
