"""A tour: connect servers, call tools, kill a server and see it reconnect, cancel everything, leave nothing behind.

python examples/quickstart.py            # on asyncio
python examples/quickstart.py trio       # on trio
"""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent

from mcp_pool import HttpServer, InProcessServer, MCPPool, StatusChanged, StdioServer

SERVERS = Path(__file__).parent / "servers"
NOTES = StdioServer(sys.executable, [str(SERVERS / "notes_server.py")])

calculator = MCPServer("calculator", log_level="WARNING")


@calculator.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def text_of(result: CallToolResult) -> str:
    """Return the text of a result."""
    return " ".join(content.text for content in result.content if isinstance(content, TextContent))


@asynccontextmanager
async def weather_service() -> AsyncGenerator[str]:
    """Run a server in another process and yield its URL."""
    command = [sys.executable, str(SERVERS / "weather_server.py")]
    async with await anyio.open_process(command, stderr=None) as service:
        assert service.stdout is not None
        port = int(await service.stdout.receive())
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            service.terminate()


async def main() -> None:
    """Run the tour once."""
    pool = MCPPool({"calculator": InProcessServer(calculator)})
    async with weather_service() as url, pool:
        await pool.connect("weather", HttpServer(url))
        await pool.connect("notes", NOTES)
        await pool.connect("diary", NOTES)
        print(pool)
        print("tools:", ", ".join(pool.tools))
        print("notes__write:", text_of(await pool.call_tool("notes__write", {"text": "milk"})))
        print("diary__read:", text_of(await pool.call_tool("diary__read")))
        print("weather__forecast:", text_of(await pool.call_tool("weather__forecast", {"city": "Oslo"})))
        print("calculator__add:", text_of(await pool.call_tool("calculator__add", {"a": 2, "b": 3})))

        async with pool.events() as events:
            process_id = pool.snapshot().servers["notes"].process_id
            assert process_id is not None
            os.kill(process_id, signal.SIGKILL)
            print("killed the process of notes")
            async for event in events:
                if isinstance(event, StatusChanged):
                    print(f"  {event.server_id} is {event.status.value}", f"({event.error})" if event.error else "")
                    if event.status.value == "error":
                        total = text_of(await pool.call_tool("calculator__add", {"a": 20, "b": 30}))
                        print("  meanwhile, calculator__add:", total)
                    if event.status.value == "connected":
                        break
        print("notes__read:", text_of(await pool.call_tool("notes__read")), "(a new process, connection 2)")

        print("cancelling the block")
        pool.cancel()
        await anyio.sleep_forever()
    print("left the block:", pool)
    print("servers:", dict(pool.servers), "tools:", dict(pool.tools), "statuses:", pool.get_all_statuses())


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
