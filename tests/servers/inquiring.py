"""An SDK server with the tools of `curious.py`, in process or, run as a program, over stdio."""

from __future__ import annotations

import json
import warnings
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, Elicit, ListRoots, MCPServer, Resolve, Sample
from mcp_types import CreateMessageResult, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel


class Name(BaseModel):
    """The answer to a request."""

    name: str


async def who() -> Elicit[Name]:
    """Ask a person."""
    return Elicit("who?", Name)


async def how() -> Sample:
    """Ask a model."""
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text="how?"))], max_tokens=10)


async def where() -> ListRoots:
    """Ask for the roots."""
    return ListRoots()


def inquiring() -> MCPServer[Any]:
    """The server."""
    server = MCPServer[Any]("inquiring", log_level="CRITICAL")

    @server.tool(structured_output=False)
    async def person(answer: Annotated[Name, Resolve(who)]) -> str:
        """Answer the name that the person gave."""
        return answer.name

    @server.tool(structured_output=False)
    async def model(answer: Annotated[CreateMessageResult, Resolve(how)]) -> str:
        """Answer what the model said."""
        assert isinstance(answer.content, TextContent)
        return answer.content.text

    @server.tool(structured_output=False)
    async def roots(answer: Annotated[ListRootsResult, Resolve(where)]) -> str:
        """Answer the first root."""
        return str(answer.roots[0].uri)

    @server.tool(structured_output=False)
    async def tell(context: Context[Any, Any], count: int) -> str:
        """Send numbered log messages, then answer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # logging is deprecated in the modern protocol
            for number in range(count):
                await context.info(str(number))
        return "told"

    @server.tool(structured_output=False)
    async def sleep(seconds: float) -> str:
        """Answer after the given number of seconds."""
        await anyio.sleep(seconds)
        return "slept"

    @server.tool(structured_output=False)
    async def person_then(seconds: float, answer: Annotated[Name, Resolve(who)]) -> str:
        """Ask a person, and answer the given number of seconds later."""
        await anyio.sleep(seconds)
        return answer.name

    @server.tool(structured_output=False)
    async def progress_then(context: Context[Any, Any], before: float, after: float) -> str:
        """Report progress after some seconds, and answer after some more."""
        await anyio.sleep(before)
        await context.report_progress(1)
        await anyio.sleep(after)
        return "slept"

    @server.tool(structured_output=False)
    async def capabilities(context: Context[Any, Any]) -> str:
        """Answer the client's capabilities, as JSON."""
        known = context.client_capabilities
        return json.dumps({} if known is None else known.model_dump(exclude_none=True))

    return server


if __name__ == "__main__":
    anyio.run(inquiring().run_stdio_async)
