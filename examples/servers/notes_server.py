"""A small stdio server for the examples: it keeps notes in memory."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("notes", log_level="WARNING")
notes: list[str] = []


@server.tool()
def write(text: str) -> str:
    """Save a note."""
    notes.append(text)
    return f"{len(notes)} saved"


@server.tool()
def read() -> str:
    """Return all notes."""
    return ", ".join(notes) or "nothing"


if __name__ == "__main__":
    server.run("stdio")
