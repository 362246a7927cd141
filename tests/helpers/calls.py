"""What the tests of calls share: servers whose answers the test decides, and what is seen of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp_types import CallToolResult, TextContent

from helpers.common import eventually
from mcp_pool import StdioServer
from servers import read_lines

ANSWERING = Path(__file__).parents[1] / "servers" / "answering.py"

PROTOCOLS = [pytest.param((), id="legacy"), pytest.param(("--modern",), id="modern")]
"""Options of a stdio server that make it speak the one or the other protocol of the protocol."""


def answering(*options: str, **fields: Any) -> StdioServer:
    """A stdio server of `servers/answering.py`; `fields` are those of its specification."""
    return StdioServer(sys.executable, ["-I", "-S", str(ANSWERING), *options], **fields)


def with_ledger(ledger: Path, *options: str, **fields: Any) -> StdioServer:
    """The same, writing down every message that it receives."""
    return answering("--ledger", str(ledger), *options, **fields)


def calls_of(ledger: Path, tool: str) -> int:
    """How many calls of a tool have arrived, over all starts of the server."""
    return sum(line.get("tool") == tool for line in read_lines(ledger))


async def arrival(ledger: Path, tool: str, count: int = 1) -> None:
    """Wait until so many calls of a tool have arrived."""
    await eventually(lambda: calls_of(ledger, tool) >= count)


def words(result: CallToolResult) -> str:
    """The text of a result that has nothing else."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


class Outcome:
    """How something ended that ran in a task of its own."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended = anyio.Event()

    async def of(self, function: Any, *args: Any) -> None:
        """Await the function and note its result or its exception."""
        try:
            self.value = await function(*args)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
