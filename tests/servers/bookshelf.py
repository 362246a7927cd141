"""An in-process server with a prompt, resources and completions."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)


def bookshelf() -> MCPServer[Any]:
    """A server with a prompt, resources and completions."""
    server = MCPServer[Any]("bookshelf", version="2.0", instructions="Ask quietly.", log_level="WARNING")

    @server.prompt()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Say hello to {name}."

    @server.resource("shelf://{name}")
    def shelf(name: str) -> str:
        """The books on a shelf."""
        return f"the books of {name}"

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        known = [] if context is None else sorted((context.arguments or {}).values())
        return Completion(values=[f"{argument.value}nna", *known])

    return server
