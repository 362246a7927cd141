"""A log sink that raises, as on a full disk: nothing of the pool depends on it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from loguru import logger

from helpers.calls import words
from helpers.common import eventually, scripted
from mcp_pool import ConnectError, ConnectionStatus, InProcessServer, MCPPool, RestartPolicy, StdioServer
from mcp_pool._shared.log import log
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND = 60.0


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines that a sink was given, which raises for each of them."""
    given: list[str] = []

    def sink(message: str) -> None:
        given.append(message)
        raise OSError(28, "No space left on device")

    number = logger.add(sink, level=0, filter="mcp_pool", catch=False)
    logger.enable("mcp_pool")
    yield given
    logger.disable("mcp_pool")
    logger.remove(number)


async def test_a_server_that_is_killed_comes_back_and_the_block_is_left(lines: list[str]) -> None:
    with anyio.fail_after(BOUND):
        async with MCPPool(restart=RestartPolicy(initial_delay=0.01), close_timeout=0.5) as pool:
            await pool.connect("s", scripted())
            process = pool.snapshot().servers["s"].process_id
            assert process is not None
            os.kill(process, signal.SIGKILL)
            await eventually(lambda: pool.server("s").generation == 2)
            assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
    assert any("SIGKILL" in line for line in lines)


async def test_an_attempt_that_fails_raises_what_is_shown(lines: list[str]) -> None:
    with anyio.fail_after(BOUND):
        async with MCPPool() as pool:
            with pytest.raises(ConnectError):
                await pool.connect("s", StdioServer("no-such-program-anywhere"))
            assert pool.get_status("s") is ConnectionStatus.ERROR
    assert lines


async def test_a_server_that_writes_to_standard_error_stays_connected(lines: list[str]) -> None:
    with anyio.fail_after(BOUND):
        async with MCPPool({"s": scripted()}) as pool:
            for number in range(3):
                await pool.call_tool("s__stderr", {"text": f"line {number}"})
            await eventually(lambda: any("line 2" in line for line in lines))
            assert pool.server("s").generation == 1


async def test_a_progress_function_that_raises_fails_no_call(lines: list[str]) -> None:
    async def raising(*_arguments: Any) -> None:
        raise ValueError("mine")

    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        await pool.call_tool("s__progress", {"n": 3}, progress=raising)
    assert any("progress function" in line for line in lines)


async def test_disconnecting_an_unknown_server_returns_false(lines: list[str]) -> None:
    async with MCPPool() as pool:
        assert await pool.disconnect("nobody") is False
    assert lines


def test_the_lost_line_is_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    def sink(_message: str) -> None:
        raise OSError(28, "No space left on device")

    number = logger.add(sink, level=0, catch=False)  # the line's module is this one: no filter
    try:
        log("INFO", None, "a line about the pool")
    finally:
        logger.remove(number)
    assert "a sink of the log raised OSError" in capsys.readouterr().err
