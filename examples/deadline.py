"""A pool with a deadline: the body is cancelled first and can still call tools, then the connections end.

python examples/deadline.py
"""

import sys
from pathlib import Path

import anyio
from mcp_types import CallToolResult, TextContent

from mcp_pool import MCPPool, StdioServer

NOTES = StdioServer(sys.executable, [str(Path(__file__).parent / "servers" / "notes_server.py")])


def words(result: CallToolResult) -> str:
    """Return the text of a result."""
    return " ".join(content.text for content in result.content if isinstance(content, TextContent))


async def main() -> None:
    """Work until the deadline, then clean up while the servers are still connected."""
    pool = MCPPool()
    with anyio.CancelScope() as deadline:
        async with pool:
            await pool.connect("notes", NOTES)
            deadline.deadline = anyio.current_time() + 1
            try:
                await pool.call_tool("notes__write", {"text": "started"})
                print("working until the deadline")
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await pool.call_tool("notes__write", {"text": "cleaned up"})
                    notes = await pool.call_tool("notes__read")
                    print("the body is cancelled, but the server still answers:", words(notes))
    print("cancelled by the deadline:", deadline.cancelled_caught)
    print("nothing left:", pool)


if __name__ == "__main__":
    anyio.run(main)
