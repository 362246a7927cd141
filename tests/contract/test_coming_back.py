"""Servers whose process exits reconnect by themselves, or fail if reconnecting cannot help."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from helpers.common import alive, eventually, scripted, started
from mcp_pool import ConnectionLost, ConnectionStatus, Failed, MCPPool, RestartPolicy, StdioServer

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message

SOON = RestartPolicy(initial_delay=0.05)


async def test_a_server_that_is_killed_reconnects_by_itself(tmp_path: Path) -> None:
    async with MCPPool(restart=SOON) as pool:
        await pool.connect("one", scripted("--pid-file", tmp_path / "pids"))
        os.kill(started(tmp_path / "pids")[0], signal.SIGKILL)
        await eventually(lambda: pool.server("one").generation == 2)
        first, second = started(tmp_path / "pids")
        assert alive(tmp_path / "pids") == [second] != [first]
        assert pool.snapshot().servers["one"].process_id == second
        assert "SIGKILL" in str(pool.server("one").last_error)
        assert not (await pool.call_tool("one__echo")).is_error


async def test_a_server_that_crashes_during_a_call_reconnects_by_itself() -> None:
    async with MCPPool(restart=SOON) as pool:
        await pool.connect("one", scripted())
        for generation in (1, 2, 3):
            with pytest.raises(ConnectionLost) as caught:
                await pool.call_tool("one__crash")
            assert caught.value.generation == generation
            await pool.wait_ready("one")
        assert pool.server("one").generation == 4


async def test_the_others_keep_working_while_one_exits_again_and_again(tmp_path: Path) -> None:
    async with MCPPool(restart=SOON) as pool:
        await pool.connect("good", scripted())
        pool.add("bad", scripted("--modern", "--die-after-list", "--pid-file", tmp_path / "pids"))
        while len(started(tmp_path / "pids")) < 4:
            assert not (await pool.call_tool("good__echo")).is_error
        assert pool.get_status("good") is ConnectionStatus.CONNECTED
        assert pool.server("good").generation == 1


async def test_a_server_that_exits_after_the_handshake_reconnects_as_often_as_its_policy_allows(
    tmp_path: Path, record_logs: list[Message]
) -> None:
    policy = RestartPolicy(initial_delay=0.01, max_delay=0.01, max_restarts=4)
    async with MCPPool(restart=policy) as pool:
        pool.add("one", scripted("--modern", "--die-after-handshake", 0.02, "--pid-file", tmp_path / "pids"))
        await eventually(lambda: isinstance(pool.server("one").state, Failed))
        assert len(started(tmp_path / "pids")) == 5
    assert len([message for message in record_logs if message.record["level"].no >= 20]) <= 2 * 5


def not_executable(directory: Path) -> str:
    program = directory / "program"
    program.write_text("#!/bin/sh\n")
    return str(program)


@pytest.mark.parametrize("kind", ["no such command", "not executable", "a directory", "no such directory to work in"])
async def test_a_server_that_cannot_be_started_fails_at_once_and_says_why(tmp_path: Path, kind: str) -> None:
    spec = {
        "no such command": StdioServer("no-such-program-anywhere"),
        "not executable": StdioServer(not_executable(tmp_path)),
        "a directory": StdioServer(str(tmp_path)),
        "no such directory to work in": scripted(cwd=tmp_path / "nowhere"),
    }[kind]
    async with MCPPool(restart=SOON) as pool:
        pool.add("one", spec)
        await eventually(lambda: pool.get_status("one") is ConnectionStatus.ERROR)
        state = pool.server("one").state
        assert isinstance(state, Failed)
        assert state.attempt == 1
        assert "could not be started" in str(state.error)
        assert isinstance(state.error.cause, OSError)


async def test_a_server_that_could_not_be_started_can_be_restarted_once_it_is_fixed(tmp_path: Path) -> None:
    place = tmp_path / "later"
    async with MCPPool() as pool:
        pool.add("one", scripted(cwd=place))
        await eventually(lambda: isinstance(pool.server("one").state, Failed))
        place.mkdir()
        await pool.server("one").restart()
        assert pool.get_status("one") is ConnectionStatus.CONNECTED
