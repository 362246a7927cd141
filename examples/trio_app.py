"""A pool in a trio program: the tasks of a nursery share its connections.

python examples/trio_app.py
"""

import sys
from pathlib import Path

import trio
from mcp_types import CallToolResult, TextContent

from mcp_pool import MCPPool, StdioServer

NOTES = StdioServer(sys.executable, [str(Path(__file__).parent / "servers" / "notes_server.py")])


def words(result: CallToolResult) -> str:
    """Return the text of a result."""
    return " ".join(content.text for content in result.content if isinstance(content, TextContent))


async def writer(pool: MCPPool, text: str) -> None:
    """Write a note."""
    result = await pool.call_tool("notes__write", {"text": text})
    print("wrote", text, "->", words(result))


async def main() -> None:
    """Write three notes concurrently, then read them."""
    async with MCPPool({"notes": NOTES}) as pool:
        async with trio.open_nursery() as nursery:
            for text in ("milk", "bread", "salt"):
                nursery.start_soon(writer, pool, text)
        notes = await pool.call_tool("notes__read")
        print("read", sorted(words(notes).split(", ")))
    print("nothing left:", pool)


if __name__ == "__main__":
    trio.run(main)
