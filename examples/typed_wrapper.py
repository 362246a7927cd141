"""A class of your own around a pool: it relays settings, connecting, calls and events, and is typed throughout.

python examples/typed_wrapper.py
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Literal, Self

import anyio
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent

from mcp_pool import (
    DEFAULT,
    CallbacksFor,
    ClientCallbacks,
    ConfigError,
    ConnectError,
    Default,
    Event,
    EventStream,
    HealthCheck,
    InProcessServer,
    MCPPool,
    Phase,
    PoolSnapshot,
    Problem,
    RestartPolicy,
    Seconds,
    ServerConfig,
    State,
    StatusChanged,
    StdioServer,
    ToolEntry,
)


class Toolbox:
    """The tools of some servers, as one program wants them: their texts, and reasons instead of errors."""

    def __init__(self, pool: MCPPool) -> None:
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        servers: Mapping[str, ServerConfig],
        *,
        call_timeout: float | None = 30.0,
        restart: RestartPolicy | None = None,
        health: HealthCheck | None = None,
        launch_limits: Mapping[str, int | None] = MappingProxyType({}),
        callbacks: CallbacksFor | None = None,
    ) -> AsyncGenerator[Self]:
        """Open a pool with these settings, and give the toolbox."""
        pool = MCPPool(
            servers,
            call_timeout=call_timeout,
            restart=RestartPolicy.never() if restart is None else restart,
            health=health,
            launch_limits=launch_limits,
            callbacks=callbacks,
        )
        async with pool:
            yield cls(pool)

    async def connect(self, server_id: str, config: ServerConfig) -> Phase | None:
        """Connect a server; return the phase in which it failed, or None."""
        try:
            await self._pool.connect(server_id, config)
        except ConnectError as error:
            print(error.reason)
            return error.phase
        return None

    async def call(self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: Seconds = DEFAULT) -> str:
        """Call a tool, and return the text of its result."""
        return words(await self._pool.call_tool(name, arguments, timeout=timeout))

    async def restart(self, server_id: str, generation: int | Literal[Default.DEFAULT] = DEFAULT) -> State | None:
        """Restart a server, and return what has become of it."""
        server = self._pool.server(server_id)
        await server.restart(generation=generation)
        return server.state

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[EventStream]:
        """Read what happens."""
        async with self._pool.events() as events:
            yield events

    @property
    def tools(self) -> Mapping[str, ToolEntry]:
        """What is offered."""
        return self._pool.tools

    def snapshot(self) -> PoolSnapshot:
        """Return the state of all servers."""
        return self._pool.snapshot()


def words(result: CallToolResult) -> str:
    """Return the text of a result."""
    return " ".join(content.text for content in result.content if isinstance(content, TextContent))


def shown(event: Event) -> str:
    """Say in a few words what happened."""
    if isinstance(event, StatusChanged):
        state: State | None = event.state
        return f"{event.server_id} is {event.status.value} ({type(state).__name__})"
    return type(event).__name__


def problems_of(command: str) -> tuple[Problem, ...]:
    """Return what is wrong with a command, field by field."""
    try:
        StdioServer(command)
    except ConfigError as error:
        return error.problems
    return ()


def callbacks_for(server_id: str) -> ClientCallbacks | None:
    """Return the callbacks of a server: none of these has any."""
    print("callbacks for", server_id)
    return None


calculator = MCPServer("calculator", log_level="WARNING")


@calculator.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def main() -> None:
    """Use the toolbox once."""
    async with (
        Toolbox.opened({"calculator": InProcessServer(calculator)}, callbacks=callbacks_for) as toolbox,
        toolbox.events() as events,
    ):
        print("tools:", ", ".join(toolbox.tools))
        print("calculator__add:", await toolbox.call("calculator__add", {"a": 2, "b": 3}, timeout=10))
        print("failed in phase", await toolbox.connect("missing", StdioServer("no-such-program")))
        print("after restart:", type(await toolbox.restart("calculator")).__name__)
        print("connected:", toolbox.snapshot().connected)
        async for event in events:
            print(" ", shown(event))
            if isinstance(event, StatusChanged) and event.server_id == "calculator" and event.generation > 1:
                break
    print("problems:", problems_of(""))


if __name__ == "__main__":
    anyio.run(main)
