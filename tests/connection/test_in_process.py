"""In-process servers: their calls, handlers and lifespan end with the connection."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import MCPServer

from helpers.calls import Outcome, words
from helpers.common import eventually
from mcp_pool import ConnectError, ConnectionLost, ConnectionStatus, InProcessServer, MCPPool, RestartPolicy
from servers.in_process import calculator, raising_lifespan, slow_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

BOUND = 15.0
"""Seconds for what must end, on a slow machine too."""
SOON = RestartPolicy(initial_delay=0.01)
in_both_protocols = pytest.mark.parametrize("mode", ["auto", "legacy"])


class Waiting:
    """A server with a tool `wait` that never answers, and a record of its handlers."""

    def __init__(self, **fields: Any) -> None:
        self.server: MCPServer[Any] = MCPServer("waiting", log_level="WARNING")
        self.spec = InProcessServer(self.server, **fields)
        self.begun = anyio.Event()
        self.left = 0

        @self.server.tool(structured_output=False)
        async def wait() -> str:
            """Never answer."""
            try:
                self.begun.set()
                await anyio.sleep_forever()
            finally:
                self.left += 1
            return "never"


async def disconnect(pool: MCPPool) -> None:
    await pool.disconnect("s", drain=0)


async def close_all(pool: MCPPool) -> None:
    await pool.close_all()


async def restart(pool: MCPPool) -> None:
    await pool.server("s").restart()


@in_both_protocols
@pytest.mark.parametrize("end", [disconnect, close_all, restart])
async def test_a_call_ends_with_its_connection_and_its_handler_is_cancelled(
    end: Callable[[MCPPool], Awaitable[None]], mode: str
) -> None:
    waiting, call = Waiting(mode=mode), Outcome()
    async with MCPPool({"s": waiting.spec}) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, pool.call_tool, "s__wait")
            await waiting.begun.wait()
            with anyio.fail_after(BOUND):
                await end(pool)
        assert isinstance(call.error, ConnectionLost)
        assert (call.error.may_have_run, call.error.generation) == (True, 1)
        await eventually(lambda: waiting.left == 1)


@in_both_protocols
async def test_a_call_from_outside_the_block_ends_with_the_block(mode: str) -> None:
    waiting, call = Waiting(mode=mode), Outcome()
    async with anyio.create_task_group() as group, MCPPool({"s": waiting.spec}) as pool:
        group.start_soon(call.of, pool.call_tool, "s__wait")
        await waiting.begun.wait()
    assert isinstance(call.error, ConnectionLost)
    assert waiting.left == 1


@in_both_protocols
async def test_the_lifespan_runs_once_around_each_connection(mode: str) -> None:
    record: list[str] = []
    async with MCPPool({"s": InProcessServer(calculator(record), mode=mode)}) as pool:
        assert record == ["started"]
        await pool.call_tool("s__add", {"a": 1, "b": 2})
        await pool.server("s").restart()
        assert record == ["started", "stopped", "started"]
        await pool.disconnect("s")
        assert record == ["started", "stopped"] * 2
    assert record == ["started", "stopped"] * 2


@in_both_protocols
async def test_a_lifespan_that_raises_on_entry_is_a_connect_error_with_that_cause(mode: str) -> None:
    async with MCPPool() as pool:
        with pytest.raises(ConnectError, match="RuntimeError: the lifespan failed") as caught:
            await pool.connect("s", InProcessServer(raising_lifespan(), mode=mode))
        assert isinstance(caught.value.cause, RuntimeError)
        assert pool.get_status("s") is ConnectionStatus.ERROR


@in_both_protocols
async def test_a_lifespan_that_raises_on_exit_harms_nothing(mode: str) -> None:
    servers = {"s": InProcessServer(raising_lifespan(at_end=True), mode=mode), "t": InProcessServer(calculator())}
    async with MCPPool(servers) as pool:
        assert await pool.disconnect("s")
        assert pool.get_status("s") is ConnectionStatus.DISCONNECTED
        assert words(await pool.call_tool("t__echo", {"text": "on"})) == "on"
        await pool.connect("s", servers["s"])
    assert not pool.servers


@in_both_protocols
async def test_a_lifespan_that_raises_on_exit_does_not_replace_the_error_of_a_call(mode: str) -> None:
    waiting, call = Waiting(mode=mode), Outcome()

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        yield
        raise ValueError("no goodbye")

    waiting.server._lowlevel_server.lifespan = lifespan
    async with MCPPool({"s": waiting.spec}) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, pool.call_tool, "s__wait")
            await waiting.begun.wait()
            await pool.disconnect("s", drain=0)
        assert isinstance(call.error, ConnectionLost)
        assert "was disconnected" in str(call.error)


@in_both_protocols
async def test_a_slow_lifespan_exit_is_limited_by_close_timeout(mode: str) -> None:
    record: list[str] = []
    spec = InProcessServer(slow_lifespan(1000, record), mode=mode, close_timeout=0.2)
    with anyio.fail_after(BOUND):
        async with MCPPool({"s": spec}) as pool:
            await pool.disconnect("s")
            assert record == ["started", "stopped"]
            await pool.connect("s", spec)
    assert record == ["started", "stopped"] * 2


@in_both_protocols
async def test_a_lifespan_has_close_timeout_to_exit(mode: str) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        yield
        await anyio.sleep(0.3)  # so that an exit that is not awaited is noticed
        ended.append("in peace")

    server = MCPServer[Any]("s", lifespan=lifespan, log_level="WARNING")
    async with MCPPool({"s": InProcessServer(server, mode=mode, close_timeout=BOUND)}):
        pass
    assert ended == ["in peace"]
