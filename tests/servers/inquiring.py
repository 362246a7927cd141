"""An SDK server with the tools of `curious.py`, in process or, run as a program, over stdio."""

from __future__ import annotations

import json
import warnings
from functools import cache
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, Elicit, ListRoots, MCPServer, Resolve, Sample
from mcp.server.mcpserver.tools import Tool
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


async def person(answer: Annotated[Name, Resolve(who)]) -> str:
    """Answer the name that the person gave."""
    return answer.name


async def model(answer: Annotated[CreateMessageResult, Resolve(how)]) -> str:
    """Answer what the model said."""
    assert isinstance(answer.content, TextContent)
    return answer.content.text


async def roots(answer: Annotated[ListRootsResult, Resolve(where)]) -> str:
    """Answer the first root."""
    return str(answer.roots[0].uri)


async def tell(context: Context[Any, Any], count: int) -> str:
    """Send so many log messages, numbered; then answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logging is deprecated as of the modern protocol
        for number in range(count):
            await context.info(str(number))
    return "told"


async def sleep(seconds: float) -> str:
    """Answer after so many seconds."""
    await anyio.sleep(seconds)
    return "slept"


async def person_then(seconds: float, answer: Annotated[Name, Resolve(who)]) -> str:
    """Ask a person, and answer so many seconds later."""
    await anyio.sleep(seconds)
    return answer.name


async def progress_then(context: Context[Any, Any], before: float, after: float) -> str:
    """Report progress after some seconds, and answer after some more."""
    await anyio.sleep(before)
    await context.report_progress(1)
    await anyio.sleep(after)
    return "slept"


async def capabilities(context: Context[Any, Any]) -> str:
    """Answer what the client can do, as JSON."""
    known = context.client_capabilities
    return json.dumps({} if known is None else known.model_dump(exclude_none=True))


def inquiring() -> MCPServer[Any]:
    """The server."""
    return MCPServer[Any]("inquiring", log_level="CRITICAL", tools=tools())


@cache
def tools() -> list[Tool]:
    """Made once for all servers, as in `in_process.py`."""
    functions = [person, model, roots, tell, sleep, person_then, progress_then, capabilities]
    return [Tool.from_function(function, structured_output=False) for function in functions]


if __name__ == "__main__":
    anyio.run(inquiring().run_stdio_async)
