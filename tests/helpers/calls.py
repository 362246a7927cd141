"""Helpers for tests of calls: servers whose answers the test controls, and what can be observed of them."""

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
"""Options of a stdio server that make it use the modern protocol or a legacy one."""


def answering(*options: str, **fields: Any) -> StdioServer:
    """A stdio server of `servers/answering.py`; `fields` are fields of its spec."""
    return StdioServer(sys.executable, ["-I", "-S", str(ANSWERING), *options], **fields)


def with_ledger(ledger: Path, *options: str, **fields: Any) -> StdioServer:
    """The same, but it also records every message that it receives."""
    return answering("--ledger", str(ledger), *options, **fields)


def calls_of(ledger: Path, tool: str) -> int:
    """How many calls of a tool have arrived, over all starts of the server."""
    return sum(line.get("tool") == tool for line in read_lines(ledger))


async def arrival(ledger: Path, tool: str, count: int = 1) -> None:
    """Wait until this many calls of a tool have arrived."""
    await eventually(lambda: calls_of(ledger, tool) >= count)


def words(result: CallToolResult) -> str:
    """The text of a result that contains nothing else."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


class Outcome:
    """How something that ran in its own task ended."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.ended = anyio.Event()

    async def of(self, function: Any, *args: Any) -> None:
        """Await the function and record its result or exception."""
        try:
            self.value = await function(*args)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
