"""In-process servers, for `mcp.Client(server)` in the modern protocol and in `mode="legacy"`.

Each function makes a new server with the same tools. A list passed as `record` gets "started" and "stopped" as the
server's lifespan starts and ends.
"""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer


def calculator(record: list[str] | None = None) -> MCPServer[Any]:
    """A server that behaves, with the tools add, echo, sleep, fail and progress."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        with recorded(record):
            yield

    return with_tools("calculator", lifespan)


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
    """A server with the common tools."""
    # The server's constructor configures the root logger: WARNING is its default level.
    server: MCPServer[Any] = MCPServer(name, version="1.0", lifespan=lifespan, log_level="WARNING")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Answer the text."""
        return text

    @server.tool(structured_output=False)
    async def sleep(seconds: float) -> str:
        """Answer after the given number of seconds."""
        await anyio.sleep(seconds)
        return f"slept {seconds} s"

    @server.tool()
    def fail() -> None:
        """Raise."""
        raise ValueError("the tool failed")

    @server.tool(structured_output=False)
    async def progress(n: int, context: Context[Any, Any]) -> str:
        """Report progress in n steps, then answer."""
        for step in range(1, n + 1):
            await context.report_progress(step, n, f"step {step}")
        return f"{n} steps done"

    return server
