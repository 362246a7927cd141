"""Servers that nobody here wrote, all in one pool."""

import os
import signal
import subprocess

import pytest

from mcp_pool import ConnectionStatus, MCPPool, StdioServer
from support import eventually

pytestmark = pytest.mark.real


async def test_five_real_servers_live_in_one_pool_and_one_that_is_killed_comes_back(real_servers, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path / "repository")], check=True)
    (tmp_path / "hello.txt").write_text("hello")
    extra = {"filesystem": [str(tmp_path)]}
    servers = {
        name: StdioServer(
            server.command,
            [*server.args, *extra.get(name, [])],
            env={"MEMORY_FILE_PATH": str(tmp_path / "memory.json")} if name == "memory" else None,
        )
        for name, server in real_servers.items()
    }
    calls = {
        "time__get_current_time": ({"timezone": "UTC"}, "UTC"),
        "git__git_status": ({"repo_path": str(tmp_path / "repository")}, "branch"),
        "everything__echo": ({"message": "hello"}, "hello"),
        "filesystem__read_text_file": ({"path": str(tmp_path / "hello.txt")}, "hello"),
        "memory__read_graph": ({}, "entities"),
    }
    async with MCPPool(servers, connect_timeout=60, open_timeout=60) as pool:
        await pool.wait_ready(timeout=60)

        async def all_answer():
            for name, (arguments, expected) in calls.items():
                result = await pool.call_tool(name, arguments)
                assert not result.is_error, (name, result)
                assert expected in str(result.content), (name, result)

        await all_answer()
        process_id = pool.snapshot().servers["everything"].process_id
        os.kill(process_id, signal.SIGKILL)
        await eventually(lambda: pool.get_status("everything") is not ConnectionStatus.CONNECTED)
        assert pool.connected_count == 4
        await pool.wait_ready(timeout=60)
        await all_answer()
        assert pool.server("everything").generation == 2
        assert [pool.server(name).generation for name in ("time", "git", "filesystem", "memory")] == [1] * 4
