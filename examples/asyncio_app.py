"""A pool in an asyncio program: asyncio tasks share its connections.

python examples/asyncio_app.py
"""

import asyncio
import sys
from pathlib import Path

from mcp_types import CallToolResult, TextContent

from mcp_pool import MCPPool, StdioServer

NOTES = StdioServer(sys.executable, [str(Path(__file__).parent / "servers" / "notes_server.py")])


def words(result: CallToolResult) -> str:
    """Return the text of a result."""
    return " ".join(content.text for content in result.content if isinstance(content, TextContent))


async def main() -> None:
    """Write three notes concurrently, then read them."""
    async with MCPPool({"notes": NOTES}) as pool:
        async with asyncio.TaskGroup() as group:
            for text in ("milk", "bread", "salt"):
                group.create_task(pool.call_tool("notes__write", {"text": text}))
        notes = await pool.call_tool("notes__read")
        print("read", sorted(words(notes).split(", ")))
    print("nothing left:", pool)


if __name__ == "__main__":
    asyncio.run(main())
