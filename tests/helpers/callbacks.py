"""Helpers for tests of callbacks: servers on each transport that send requests, and callbacks that answer them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from mcp import MCPError
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    LoggingMessageNotification,
    Root,
    TextContent,
)

from mcp_pool import ClientCallbacks, InProcessServer, StdioServer
from servers.inquiring import inquiring

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp_pool import MCPPool

CURIOUS = Path(__file__).parents[1] / "servers" / "curious.py"
WIRES = ["legacy stdio", "modern stdio", "legacy in process", "modern in process"]
on_each_wire = pytest.mark.parametrize("wire", WIRES)
LOGS = {"log_level": "info"}
"""The option that makes a modern server send log messages."""
ANSWERS: dict[str, Any] = {
    "sampling": CreateMessageResult(role="assistant", content=TextContent(type="text", text="so"), model="m"),
    "elicitation": ElicitResult(action="accept", content={"name": "Ann"}),
    "list_roots": ListRootsResult(roots=[Root(uri="file:///here")]),
}
"""A valid answer for each callback that answers requests."""
TOOLS = {"sampling": "model", "elicitation": "person", "list_roots": "roots"}
"""The tool that makes the server send the request for each of them."""
WORDS = {"sampling": "so", "elicitation": "Ann", "list_roots": "file:///here"}
"""A word from each answer."""
each_question = pytest.mark.parametrize("kind", list(TOOLS))


def asking(wire: str, **fields: Any) -> StdioServer | InProcessServer:
    """A server that sends requests and log messages; `fields` are fields of its spec."""
    protocol, where = wire.split(maxsplit=1)
    fields = {"client_options": LOGS, **fields}
    if where == "in process":
        return InProcessServer(inquiring(), mode="legacy" if protocol == "legacy" else "auto", **fields)
    options = ["--modern"] if protocol == "modern" else []
    return StdioServer(sys.executable, ["-I", "-S", str(CURIOUS), *options], **{"close_timeout": 0.5, **fields})


@attrs.define(eq=False)
class Listener:
    """Callbacks that answer correctly, and what they were called with."""

    asked: list[Any] = attrs.Factory(list)
    logged: list[Any] = attrs.Factory(list)
    told: list[Any] = attrs.Factory(list)

    def callbacks(self, **others: Callable[..., Any]) -> ClientCallbacks:
        """The callbacks, with some of them replaced."""

        async def sampling(_context: Any, params: Any) -> Any:
            self.asked.append(params.messages[0].content.text)
            return ANSWERS["sampling"]

        async def elicitation(_context: Any, params: Any) -> Any:
            self.asked.append(params.message)
            return ANSWERS["elicitation"]

        async def list_roots(context: Any) -> Any:
            self.asked.append(type(context).__name__)
            return ANSWERS["list_roots"]

        async def logging(params: Any) -> None:
            self.logged.append(params.data)

        async def message(message: Any) -> None:
            self.told.append(message.params.data if isinstance(message, LoggingMessageNotification) else message)

        own: dict[str, Any] = {
            "sampling": sampling,
            "elicitation": elicitation,
            "list_roots": list_roots,
            "logging": logging,
            "message": message,
        }
        return ClientCallbacks(**{**own, **others})


async def said(pool: MCPPool, tool: str, server_id: str = "s", **more: Any) -> str:
    """The text of a tool's result, or the protocol error with which its call ended."""
    try:
        result = await pool.server(server_id).call_tool(tool, **more)
    except MCPError as error:
        return f"error: {error}"
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text
