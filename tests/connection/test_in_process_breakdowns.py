"""In-process servers that fail, disconnect themselves, or end the program."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import MCPServer

from helpers.calls import Outcome, words
from helpers.common import eventually
from mcp_pool import ConnectionLost, ConnectionStatus, InProcessServer, MCPPool, RestartPolicy
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

BOUND = 15.0
"""Seconds for what must end, on a slow machine too."""
SOON = RestartPolicy(initial_delay=0.01)
in_both_protocols = pytest.mark.parametrize("mode", ["auto", "legacy"])


class Fragile:
    """A server whose own task fails with an exception group when `crash` is called."""

    def __init__(self, **fields: Any) -> None:
        self.starts = 0
        self.crashing = anyio.Event()
        self.server: MCPServer[Any] = MCPServer("fragile", lifespan=self.lifespan, log_level="WARNING")
        self.spec = InProcessServer(self.server, **fields)

        @self.server.tool(structured_output=False)
        async def crash() -> str:
            """Make the server's task fail, and never answer."""
            self.crashing.set()
            await anyio.sleep_forever()
            return "never"

        @self.server.tool(structured_output=False)
        async def echo(text: str) -> str:
            """Answer the text."""
            return text

    @asynccontextmanager
    async def lifespan(self, _server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        self.starts += 1
        self.crashing = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self.break_down)
            yield
            group.cancel_scope.cancel()

    async def break_down(self) -> None:
        await self.crashing.wait()
        raise OSError("the disk is full")


@in_both_protocols
async def test_a_server_whose_task_fails_during_a_call_is_a_lost_connection_and_reconnects(mode: str) -> None:
    fragile = Fragile(mode=mode, restart=SOON)
    async with MCPPool({"s": fragile.spec}) as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectionLost) as caught:
            await pool.call_tool("s__crash")
        assert (caught.value.may_have_run, caught.value.server_id, caught.value.generation) == (True, "s", 1)
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
        assert (fragile.starts, pool.server("s").generation) == (2, 2)


@in_both_protocols
async def test_calls_that_coincide_with_a_breakdown_raise_connection_lost(mode: str) -> None:
    fragile = Fragile(mode=mode, restart=SOON)

    async def call_until_lost(pool: MCPPool) -> None:
        try:
            while True:
                await pool.call_tool("s__echo", {"text": "on"})
        except ConnectionLost:
            pass

    async with MCPPool({"s": fragile.spec}) as pool:
        for generation in (1, 2, 3):
            await pool.wait_ready("s")
            with anyio.move_on_after(BOUND):
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(call_until_lost, pool)
                    await anyio.lowlevel.checkpoint()
                    fragile.crashing.set()
                    await eventually(lambda generation=generation: pool.server("s").generation > generation)
                    group.cancel_scope.cancel()


@in_both_protocols
async def test_the_exception_behind_a_breakdown_is_the_cause_of_last_error_and_not_a_group(mode: str) -> None:
    fragile = Fragile(mode=mode, restart=SOON)
    async with MCPPool({"s": fragile.spec}) as pool:
        fragile.crashing.set()
        await eventually(lambda: pool.server("s").generation == 2)
        error = pool.server("s").last_error
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.cause, OSError)
        assert "OSError" in str(error)


@in_both_protocols
async def test_a_breakdown_ends_neither_the_body_nor_calls_on_other_servers(mode: str) -> None:
    fragile, call = Fragile(mode=mode, restart=SOON), Outcome()
    neighbour = InProcessServer(calculator(), mode=mode)
    async with MCPPool({"s": fragile.spec, "w": neighbour}) as pool, anyio.create_task_group() as group:
        group.start_soon(call.of, pool.call_tool, "w__sleep", {"seconds": 1000})
        await eventually(lambda: pool.snapshot().calls_in_flight == 1)
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__crash")
        await eventually(lambda: pool.server("s").generation == 2)
        assert not call.ended.is_set()
        assert pool.server("w").generation == 1
        group.cancel_scope.cancel()


def with_self_service(pool: MCPPool, mode: str) -> tuple[InProcessServer, list[str]]:
    """A server whose tools act on their own pool, and a record of what their handlers did at the end."""
    server, left = MCPServer[Any]("self-service", log_level="WARNING"), list[str]()

    @server.tool(structured_output=False)
    async def do(what: str) -> str:
        """Close, disconnect or restart this tool's own server."""
        try:
            match what:
                case "disconnect":
                    await pool.disconnect("s", drain=0)
                case "drain":
                    await pool.disconnect("s", drain=0.2)
                case "close_all":
                    await pool.close_all()
                case _:
                    await pool.server("s").restart()
        finally:
            left.append(what)
        return "survived"

    return InProcessServer(server, mode=mode), left


@in_both_protocols
@pytest.mark.parametrize("what", ["disconnect", "drain", "close_all"])
async def test_a_tool_may_end_its_own_server(what: str, mode: str) -> None:
    call = Outcome()
    async with MCPPool() as pool:
        spec, left = with_self_service(pool, mode)
        await pool.connect("s", spec)
        with anyio.fail_after(BOUND):
            await call.of(pool.call_tool, "s__do", {"what": what})
            await eventually(lambda: not pool.servers and left == [what])
        assert isinstance(call.error, ConnectionLost)
        await pool.connect("s", spec)
        assert pool.get_status("s") is ConnectionStatus.CONNECTED


@in_both_protocols
async def test_a_tool_may_restart_its_own_server(mode: str) -> None:
    call = Outcome()
    async with MCPPool() as pool:
        spec, left = with_self_service(pool, mode)
        await pool.connect("s", spec)
        with anyio.fail_after(BOUND):
            await call.of(pool.call_tool, "s__do", {"what": "restart"})
            await eventually(lambda: pool.server("s").generation == 2 and left == ["restart"])
        assert isinstance(call.error, ConnectionLost)
        assert pool.get_status("s") is ConnectionStatus.CONNECTED


@in_both_protocols
async def test_a_base_exception_in_a_tool_leaves_the_block_unchanged(mode: str) -> None:
    class Stop(BaseException):
        pass

    server, record = MCPServer[Any]("s", log_level="WARNING"), list[str]()
    stop = Stop("enough")

    @server.tool()
    async def end() -> None:
        """End the program."""
        raise stop

    servers = {"s": InProcessServer(server, mode=mode), "t": InProcessServer(calculator(record))}
    with pytest.raises(Stop) as caught:
        async with MCPPool(servers) as pool:
            await pool.call_tool("s__end")
    assert caught.value is stop
    assert record == ["started", "stopped"]
    assert not pool.servers


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_tool_can_end_the_program(mode: str, backend: str) -> None:
    program = f"""
import anyio
from mcp.server.mcpserver import MCPServer
from mcp_pool import InProcessServer, MCPPool

async def main():
    server = MCPServer("s", log_level="WARNING")

    @server.tool()
    async def end() -> None:
        raise SystemExit(7)

    async with MCPPool({{"s": InProcessServer(server, mode={mode!r})}}) as pool:
        await pool.call_tool("s__end")

anyio.run(main, backend={backend!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
