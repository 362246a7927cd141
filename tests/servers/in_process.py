"""In-process servers, for `mcp.Client(server)` in the modern protocol and in `mode="legacy"`.

Each function makes a new server with the same tools. A list passed as `record` gets "started" and "stopped" as the
server's lifespan starts and ends.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import cache
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.tools import Tool


def calculator(record: list[str] | None = None) -> MCPServer[Any]:
    """A server that behaves, with the tools add, echo, sleep, fail and progress."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        with recorded(record):
            yield

    return with_tools("calculator", lifespan)


def growing() -> MCPServer[Any]:
    """A calculator with a tool that adds one, and tells in both protocols that the list has changed."""
    server = calculator()

    @server.tool(structured_output=False)
    async def grow(name: str, context: Context[Any, Any]) -> None:
        server.add_tool(lambda: name, name=name, structured_output=False)
        await context.notify_tools_changed()
        with suppress(Exception):  # in the modern protocol, only a stream tells it
            await context.session.send_tool_list_changed()

    return server


def raising_lifespan(*, at_end: bool = False, error: BaseException | None = None) -> MCPServer[Any]:
    """A server whose lifespan raises on entry, or with `at_end` on exit, however it exits."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        try:
            if at_end:
                yield
        finally:
            raise error or RuntimeError("the lifespan failed")

    return with_tools("raising", lifespan)


def slow_lifespan(seconds: float, record: list[str] | None = None, *, shielded: bool = False) -> MCPServer[Any]:
    """A server whose lifespan takes the given time to exit, unless it is cancelled; if shielded, even then."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        with recorded(record):
            try:
                yield
            finally:
                with anyio.CancelScope(shield=shielded):
                    await anyio.sleep(seconds)

    return with_tools("slow", lifespan)


@contextmanager
def recorded(record: list[str] | None) -> Generator[None, None, None]:
    """Record the start and the end of a block in the list, if there is one."""
    record = [] if record is None else record
    record.append("started")
    try:
        yield
    finally:
        record.append("stopped")


def with_tools(name: str, lifespan: Callable[[MCPServer[Any]], AbstractAsyncContextManager[None]]) -> MCPServer[Any]:
    """A server with the tools that all of them have."""
    # The server's constructor sets up the root logger: WARNING is the level that it has anyway.
    return MCPServer(name, version="1.0", lifespan=lifespan, log_level="WARNING", tools=tools())


@cache
def tools() -> list[Tool]:
    """Made once for all servers: their models and schemas would take a third of the time of a test in process."""
    return [
        Tool.from_function(add),
        Tool.from_function(echo, structured_output=False),
        Tool.from_function(sleep, structured_output=False),
        Tool.from_function(fail),
        Tool.from_function(progress, structured_output=False),
    ]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def echo(text: str) -> str:
    """Answer the text."""
    return text


async def sleep(seconds: float) -> str:
    """Answer after so many seconds."""
    await anyio.sleep(seconds)
    return f"slept {seconds} s"


def fail() -> None:
    """Raise."""
    raise ValueError("the tool failed")


async def progress(n: int, context: Context[Any, Any]) -> str:
    """Report progress in n steps, then answer."""
    for step in range(1, n + 1):
        await context.report_progress(step, n, f"step {step}")
    return f"{n} steps done"
