"""An in-process server with one slow tool, and a record of its calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer

from mcp_pool import InProcessServer


class Workshop:
    """A server with the tool `work`; its n-th start takes the n-th of these times, later starts take none."""

    def __init__(self, *starts: float) -> None:
        self.begun: list[str] = []
        self.running = 0
        self.most = 0
        waits = [*starts]

        @asynccontextmanager
        async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None]:
            await anyio.sleep(waits.pop(0) if waits else 0)
            yield

        self.server = MCPServer[Any]("workshop", lifespan=lifespan, log_level="WARNING")

        @self.server.tool(structured_output=False)
        async def work(key: str, seconds: float) -> str:
            """Work for the given number of seconds."""
            self.begun.append(key)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await anyio.sleep(seconds)
            finally:
                self.running -= 1
            return key

    def spec(self, slots: int | None, **fields: Any) -> InProcessServer:
        """A spec with the given number of slots."""
        return InProcessServer(self.server, max_in_flight=slots, **fields)
