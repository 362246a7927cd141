"""Public servers, downloaded on first use. Needs `uvx`, `npx` and a network connection.

python examples/public_servers.py
"""

import anyio

from mcp_pool import MCPPool, MCPPoolError, RestartPolicy, StdioServer

SERVERS = {
    "time": StdioServer("uvx", ["mcp-server-time"]),
    "git": StdioServer("uvx", ["mcp-server-git"]),
    "everything": StdioServer("npx", ["-y", "@modelcontextprotocol/server-everything"]),
    "filesystem": StdioServer("npx", ["-y", "@modelcontextprotocol/server-filesystem", "."]),
    "memory": StdioServer("npx", ["-y", "@modelcontextprotocol/server-memory"]),
}
CALLS: dict[str, tuple[str, dict[str, str]]] = {
    "time": ("get_current_time", {"timezone": "UTC"}),
    "git": ("git_status", {"repo_path": "."}),
    "everything": ("echo", {"message": "hello"}),
    "filesystem": ("list_allowed_directories", {}),
    "memory": ("read_graph", {}),
}


async def main() -> None:
    """Call one tool of each server. A server that fails does not disturb the others."""
    async with MCPPool(SERVERS, connect_timeout=120, open_timeout=120, restart=RestartPolicy.never()) as pool:
        for server_id, (tool, arguments) in CALLS.items():
            try:
                result = await pool.server(server_id).call_tool(tool, arguments)
            except MCPPoolError as error:
                print(f"{server_id}: {error}")
            else:
                print(f"{server_id}: {result.content[0]}")


if __name__ == "__main__":
    anyio.run(main)
