"""Servers that nobody here wrote, all in one pool."""

import os
import signal
from pathlib import Path

import anyio
import pytest

from mcp_pool import ConnectionLost, ConnectionStatus, MCPPool
from support import eventually

pytestmark = pytest.mark.real

PATIENCE = 60.0
"""Seconds for a real server to start or to answer: its first start after an installation reads a cold disk."""


def calls(directory: Path) -> dict[str, tuple[str, dict[str, object], str]]:
    """Map each server to a call that it can answer: a tool's name in the catalog, the arguments, a part of the answer."""
    return {
        "time": ("time__get_current_time", {"timezone": "UTC"}, "UTC"),
        "git": ("git__git_status", {"repo_path": str(directory / "repository")}, "branch"),
        "everything": ("everything__echo", {"message": "hello"}, "hello"),
        "filesystem": ("filesystem__read_text_file", {"path": str(directory / "hello.txt")}, "hello"),
        "memory": ("memory__read_graph", {}, "entities"),
    }


async def assert_answers(pool: MCPPool, directory: Path, *but: str):
    """Assert that every server but these answers a call."""
    for server_id, (name, arguments, expected) in calls(directory).items():
        if server_id not in but:
            result = await pool.call_tool(name, arguments, timeout=PATIENCE)
            assert not result.is_error, (name, result)
            assert expected in str(result.content), (name, result)


def kill(pool: MCPPool, *server_ids: str):
    """Kill the processes of these servers, as an operator or the system would."""
    for server_id in server_ids:
        process_id = pool.snapshot().servers[server_id].process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)


async def test_five_real_servers_live_in_one_pool_and_one_that_is_killed_comes_back(real_servers, tmp_path):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        await assert_answers(pool, tmp_path)
        kill(pool, "everything")
        await eventually(lambda: pool.get_status("everything") is not ConnectionStatus.CONNECTED)
        assert pool.connected_count == 4
        assert "SIGKILL" in str(pool.server("everything").last_error)
        await assert_answers(pool, tmp_path, "everything")
        await pool.wait_ready(timeout=PATIENCE)
        await assert_answers(pool, tmp_path)
        assert pool.server("everything").generation == 2
        assert [pool.server(name).generation for name in ("time", "git", "filesystem", "memory")] == [1] * 4


class Operation:
    """A long call of `everything` that reports its progress."""

    def __init__(self, pool: MCPPool) -> None:
        self.pool = pool
        self.steps: list[float] = []
        self.began = anyio.Event()

    async def call(self, *, seconds: int):
        return await self.pool.call_tool(
            "everything__trigger-long-running-operation",
            {"duration": seconds, "steps": seconds * 4},
            timeout=PATIENCE,
            progress=self.note,
        )

    async def note(self, progress, total, message):
        self.steps.append(progress)
        self.began.set()


async def test_a_call_of_a_real_server_outlasts_the_death_of_others(real_servers, tmp_path):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        operation = Operation(pool)

        async def outlast():
            assert "completed" in str((await operation.call(seconds=2)).content)

        async with anyio.create_task_group() as group:
            group.start_soon(outlast)
            await operation.began.wait()
            kill(pool, "time", "memory")
            await eventually(lambda: pool.server("time").last_error and pool.server("memory").last_error)
        assert operation.steps == sorted(operation.steps)
        assert operation.steps[-1] == 8
        await pool.wait_ready(timeout=PATIENCE)
        await assert_answers(pool, tmp_path)
        assert pool.server("everything").generation == 1


async def test_a_call_that_a_real_server_dies_under_tells_how_it_died(real_servers, tmp_path):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        operation = Operation(pool)

        async def be_lost():
            with pytest.raises(ConnectionLost, match="SIGKILL") as lost:
                await operation.call(seconds=60)
            assert lost.value.may_have_run

        async with anyio.create_task_group() as group:
            group.start_soon(be_lost)
            await operation.began.wait()
            kill(pool, "everything")
        await assert_answers(pool, tmp_path)


async def test_real_servers_that_are_killed_all_at_once_come_back(real_servers, tmp_path):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        kill(pool, *real_servers)
        await eventually(lambda: all(server.last_error for server in pool.servers.values()))
        await assert_answers(pool, tmp_path)  # each call waits for its server
        assert {name: server.generation for name, server in pool.servers.items()} == dict.fromkeys(real_servers, 2)
