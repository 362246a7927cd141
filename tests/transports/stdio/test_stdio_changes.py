"""Changes of a server over stdio: told on a stream in the modern protocol, by notifications in a legacy one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import connection_of, eventually
from helpers.stdio import AT_ONCE
from mcp_pool import CatalogChanged, MCPPool, StdioServer, ToolEntry

if TYPE_CHECKING:
    from mcp_pool import EventStream

SDK_SERVER = Path(__file__).parents[2] / "servers" / "sdk_stdio.py"


async def added(events: EventStream) -> list[str]:
    """The names that the next change to add something adds."""
    with anyio.fail_after(60):
        async for event in events:
            if isinstance(event, CatalogChanged) and event.added:
                return [entry.catalog_name for entry in event.added if isinstance(entry, ToolEntry)]
    raise AssertionError("the events ended")


@pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["modern", "legacy"])
async def test_a_tool_that_is_added_appears_and_is_told_on_every_connection(mode: str) -> None:
    spec = StdioServer(sys.executable, [str(SDK_SERVER)], mode=mode, restart=AT_ONCE)
    async with MCPPool({"s": spec}) as pool:
        assert connection_of(pool, "s").is_modern == (mode == "auto")
        async with pool.events() as events:
            await pool.call_tool("s__grow", {"name": "one"})
            assert await added(events) == ["s__one"]
            assert (await pool.call_tool("s__one")).content
            await pool.server("s").restart()  # a new process, which has forgotten the tool
            await eventually(lambda: "s__one" not in pool.tools)
            await pool.call_tool("s__grow", {"name": "two"})
            assert await added(events) == ["s__two"]
