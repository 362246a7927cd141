"""Published servers, all in one pool."""

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import CreateMessageResult, ElicitResult, PromptReference, TextContent

from helpers.common import eventually
from mcp_pool import ClientCallbacks, ConnectionLost, ConnectionStatus, MCPPool

pytestmark = pytest.mark.real

PATIENCE = 60.0
"""Seconds for a real server to start or to answer: its first start after the installation reads from a cold disk."""


def calls(directory: Path) -> dict[str, tuple[str, dict[str, object], str]]:
    """Map each server to a call that it can answer: the tool's catalog name, the arguments, a part of the result."""
    return {
        "time": ("time__get_current_time", {"timezone": "UTC"}, "UTC"),
        "git": ("git__git_status", {"repo_path": str(directory / "repository")}, "branch"),
        "everything": ("everything__echo", {"message": "hello"}, "hello"),
        "everything-http": ("everything-http__echo", {"message": "hello"}, "hello"),
        "everything-sse": ("everything-sse__echo", {"message": "hello"}, "hello"),
        "filesystem": ("filesystem__read_text_file", {"path": str(directory / "hello.txt")}, "hello"),
        "memory": ("memory__read_graph", {}, "entities"),
    }


async def assert_answers(pool: MCPPool, directory: Path, *but: str):
    """Check that every server except these answers a call."""
    for server_id, (name, arguments, expected) in calls(directory).items():
        if server_id not in but:
            result = await pool.call_tool(name, arguments, timeout=PATIENCE)
            assert not result.is_error, (name, result)
            assert expected in str(result.content), (name, result)


def generations(pool: MCPPool) -> dict[str, int]:
    """Map each server to the number of its connection."""
    return {server_id: server.generation for server_id, server in pool.servers.items()}


def kill(pool: MCPPool, *server_ids: str):
    """Kill the processes of these servers, as an operator or the system would."""
    for server_id in server_ids:
        process_id = pool.snapshot().servers[server_id].process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)


async def test_real_servers_on_all_transports_share_a_pool_and_one_that_is_killed_reconnects(real_servers, tmp_path):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        await assert_answers(pool, tmp_path)
        kill(pool, "everything")
        await eventually(lambda: pool.get_status("everything") is not ConnectionStatus.CONNECTED)
        assert pool.connected_count == len(real_servers) - 1
        assert "SIGKILL" in str(pool.server("everything").last_error)
        await assert_answers(pool, tmp_path, "everything")
        await pool.wait_ready(timeout=PATIENCE)
        await assert_answers(pool, tmp_path)
        assert generations(pool) == dict.fromkeys(real_servers, 1) | {"everything": 2}


class Operation:
    """A long call to `everything`, over one of its transports, that reports progress."""

    def __init__(self, pool: MCPPool, server_id: str = "everything") -> None:
        self.pool = pool
        self.server_id = server_id
        self.steps: list[float] = []
        self.began = anyio.Event()

    async def call(self, *, seconds: int):
        return await self.pool.call_tool(
            f"{self.server_id}__trigger-long-running-operation",
            {"duration": seconds, "steps": seconds * 4},
            timeout=PATIENCE,
            progress=self.note,
        )

    async def note(self, progress, total, message):
        self.steps.append(progress)
        self.began.set()


async def test_a_call_to_a_real_server_survives_the_exit_of_others(real_servers, tmp_path):
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


async def test_a_call_during_which_a_real_server_exits_says_how_it_exited(real_servers, tmp_path):
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


async def test_real_servers_that_are_killed_all_at_once_reconnect(real_servers, programs, tmp_path):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        kill(pool, *(real_servers.keys() - programs.keys()))
        for program in programs.values():
            program.kill()
        await eventually(lambda: all(server.last_error for server in pool.servers.values()))
        for program in programs.values():
            program.start()
        await assert_answers(pool, tmp_path)  # each call waits for its server
        assert generations(pool) == dict.fromkeys(real_servers, 2)


async def test_a_server_that_was_killed_and_restarted_on_its_port_is_known_to_have_lost_its_session(
    real_servers, programs, tmp_path
):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        programs["everything-http"].kill()
        programs["everything-http"].start()
        # The pool could not notice. The server responds with 400 without an id: the call may have run, so it fails with
        # the server's error, and a ping that is rejected in the same way shows that the session is lost.
        assert pool.get_status("everything-http") is ConnectionStatus.CONNECTED
        name, arguments, _ = calls(tmp_path)["everything-http"]
        with pytest.raises(MCPError, match="No valid session ID provided"):
            await pool.call_tool(name, arguments, timeout=PATIENCE)
        await eventually(lambda: pool.server("everything-http").generation == 2)
        await assert_answers(pool, tmp_path)
        assert "appears to have lost the session" in str(pool.server("everything-http").last_error)
        assert generations(pool) == dict.fromkeys(real_servers, 1) | {"everything-http": 2}


@pytest.mark.parametrize("server_id", ["everything-http", "everything-sse"])
async def test_a_server_that_exits_during_a_call_and_is_restarted_on_its_port_reconnects(
    real_servers, programs, tmp_path, server_id
):
    async with MCPPool(real_servers, connect_timeout=PATIENCE, open_timeout=PATIENCE) as pool:
        await pool.wait_ready(timeout=PATIENCE)
        operation, other = Operation(pool, server_id), Operation(pool)

        async def be_lost():
            with pytest.raises(ConnectionLost) as lost:
                await operation.call(seconds=60)
            assert lost.value.may_have_run

        async def outlast():
            assert "completed" in str((await other.call(seconds=2)).content)

        async with anyio.create_task_group() as group:
            group.start_soon(be_lost)
            group.start_soon(outlast)
            await operation.began.wait()
            await other.began.wait()
            programs[server_id].kill()
        await eventually(lambda: pool.get_status(server_id) is not ConnectionStatus.CONNECTED)
        await assert_answers(pool, tmp_path, server_id)
        programs[server_id].start()
        await assert_answers(pool, tmp_path)  # the call waits for its server
        assert generations(pool) == dict.fromkeys(real_servers, 1) | {server_id: 2}


async def test_everything_that_the_reference_server_offers_is_used_through_the_pool(installed, tmp_path):
    logged: list[str] = []

    async def sample(_context: Any, _params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="sampled"), model="none")

    async def elicit(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    async def log(params: Any) -> None:
        logged.append(str(params.data))

    filesystem = installed["filesystem"]
    installed = {**installed, "filesystem": {**filesystem, "args": [*filesystem["args"], str(tmp_path)]}}
    callbacks = ClientCallbacks(sampling=sample, elicitation=elicit, logging=log)
    pool = MCPPool.from_config(
        {"mcpServers": installed},
        strict=True,
        open_timeout=PATIENCE,
        connect_timeout=PATIENCE,
        callbacks=lambda _: callbacks,
    )
    async with pool:
        assert pool.connected_count == 5
        assert {entry.server_id for entry in pool.tools.values()} == installed.keys()
        assert len(pool.resource_templates) == 2
        uri = next(uri for server_id, uri in pool.resources if server_id == "everything")
        assert (await pool.read_resource("everything", uri)).contents
        assert (await pool.read_resource("everything", "demo://resource/dynamic/text/1")).contents
        prompt = await pool.get_prompt("everything__args-prompt", {"city": "Oslo"})
        assert "Oslo" in str(prompt.messages)
        department = PromptReference(type="ref/prompt", name="completable-prompt")
        found = await pool.complete("everything", department, {"name": "department", "value": "E"})
        assert found.completion.values == ["Engineering"]
        total = await pool.call_tool("everything__get-structured-content", {"location": "Chicago"})
        assert total.structured_content
        asked = await pool.call_tool("everything__trigger-sampling-request", {"prompt": "hello", "maxTokens": 10})
        assert "sampled" in str(asked.content)
        declined = await pool.call_tool("everything__trigger-elicitation-request")
        assert "declined" in str(declined.content)
        await pool.call_tool("everything__toggle-simulated-logging")
        async with pool.subscribe("everything", uri) as updates:
            await pool.call_tool("everything__toggle-subscriber-updates")
            assert (await anext(updates)).uri == uri
            kill(pool, "everything")
            with anyio.fail_after(PATIENCE):
                async for update in updates:
                    if update.may_have_missed:
                        break
        assert logged
