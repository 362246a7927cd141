"""The tools of `marked.py` on the SDK's own server, as far as they make sense: for HTTP and in-process."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

REFUSED = -32000


class MarkedServer:
    """A server whose calls are recorded, and whose task fails on request.

    Args:
        note: Records a ticket.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.breaking = anyio.Event()
        self.parties: dict[str, tuple[list[str], anyio.Event]] = {}
        # The server's constructor sets the level of the root logger: WARNING is its default.
        self.server: MCPServer[Any] = MCPServer("marked", version="1.0", lifespan=self.lifespan, log_level="WARNING")
        self.server.tool(structured_output=False)(self.work)
        self.server.tool("safe", structured_output=False, annotations=ToolAnnotations(read_only_hint=True))(self.work)
        for function in (self.bulky, self.refuse, self.mute, self.gather, self.flood):
            self.server.tool(structured_output=False)(function)

    @asynccontextmanager
    async def lifespan(self, _server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        """Run until the end, or fail with an exception group."""
        self.breaking = breaking = anyio.Event()

        async def break_down() -> None:
            await breaking.wait()
            raise OSError("the disk is full")

        async with anyio.create_task_group() as group:
            group.start_soon(break_down)
            yield
            group.cancel_scope.cancel()

    async def work(self, ticket: str, context: Context[Any, Any], seconds: float = 0.0, steps: int = 0) -> str:
        """Take some time, in steps, and return the ticket."""
        self.note(ticket)
        for step in range(steps):
            await anyio.sleep(seconds / steps)
            await context.report_progress(step + 1, steps)
        if not steps:
            await anyio.sleep(seconds)
        return ticket

    async def bulky(self, ticket: str, size: int) -> str:
        """Return the ticket and this many characters."""
        self.note(ticket)
        return ticket + " " + "x" * size

    async def refuse(self, ticket: str) -> str:
        """Return a JSON-RPC error that contains the ticket."""
        self.note(ticket)
        raise MCPError(REFUSED, f"refused {ticket}")

    async def mute(self, ticket: str) -> str:
        """Never return."""
        self.note(ticket)
        await anyio.sleep_forever()
        return ticket

    async def gather(self, ticket: str, party: str, count: int) -> str:
        """Return the ticket as soon as this many calls of the same party have arrived."""
        self.note(ticket)
        here, all_there = self.parties.setdefault(party, ([], anyio.Event()))
        here.append(ticket)
        if len(here) >= count:
            all_there.set()
        await all_there.wait()
        self.parties.pop(party, None)
        return ticket

    async def flood(self, ticket: str, context: Context[Any, Any], what: str, count: int) -> str:
        """Send this many log messages or progress reports as fast as possible, then return the ticket."""
        self.note(ticket)
        for number in range(count):
            if what == "progress":
                await context.report_progress(number, count)
            else:
                await context.info(f"flood {number}")
        return ticket
