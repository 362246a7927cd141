"""What a change costs in catalogs of different sizes, as a ratio to a small one, measured in turns in one run.

    python tests/benchmarks/catalog_cost.py

Learning of a changed tool, and of a status change, must cost the same however many servers there are. Only the merge,
made when somebody looks at the catalog after a change, grows with it.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import anyio
from mcp_types import Tool

from mcp_pool import MCPPool, StdioServer
from mcp_pool.config.target import Target
from mcp_pool.connection.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp_pool.supervision.row import Row

SIZES = (10, 1000)
TOOLS = 50
ROUNDS = 7
TIMES = 20


def tools(changed: int = -1) -> Listing:
    """A listing of tools, one of which has another description."""
    schema = {"type": "object"}
    made = [
        Tool(name=f"tool_{number}", description="changed" if number == changed else "", input_schema=schema)
        for number in range(TOOLS)
    ]
    return Listing({tool.name: tool for tool in made})


class Size:
    """A catalog of one size."""

    def __init__(self, servers: int) -> None:
        self.pool = MCPPool()
        registry = self.pool._supervisor.registry
        spec = StdioServer("program")
        self.rows: list[Row] = []
        for number in range(servers):
            target = Target.of(self.pool._supervisor.settings, f"s{number}", spec)
            row = registry.admit(target, persistent=True, predecessor=None)
            row.update_offer({"tools": tools()}, row.offering.begin_listing())
            self.rows.append(row)
        self.row = self.rows[servers // 2]
        self.changed = 0

    def change_tool(self) -> None:
        """Learn of a changed tool."""
        self.changed = 1 - self.changed
        self.row.update_offer({"tools": tools(self.changed)}, self.row.offering.begin_listing())

    def change_status(self) -> None:
        """Learn of a request for another attempt, which changes the state."""
        self.row.note_change(None)
        self.row.changed.notify()
        assert self.pool.tools is self.pool.tools

    def look(self) -> None:
        """Look at the catalog after a change."""
        self.change_tool()
        assert len(self.pool.tools) == len(self.rows) * TOOLS


def seconds(work: Callable[[], None]) -> float:
    """How long one piece of work takes, in the mean of several."""
    start = time.perf_counter()
    for _ in range(TIMES):
        work()
    return (time.perf_counter() - start) / TIMES


async def main() -> None:
    """Print the figures."""
    small, large = (Size(servers) for servers in SIZES)
    for name in ("change_tool", "change_status", "look"):
        rounds = [(seconds(getattr(small, name)), seconds(getattr(large, name))) for _ in range(ROUNDS)]
        ratio = statistics.median(big / little for little, big in rounds)
        little, big = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{name:14} {SIZES[0]} servers: {little * 1e6:8.1f} us, {SIZES[1]}: {big * 1e6:8.1f} us, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    anyio.run(main)
