"""From a name in the catalog to a server's tool, with a wait for servers that have not been listed yet."""

from __future__ import annotations

import math

import anyio

from mcp_pool.catalog.catalog import Catalog, ToolEntry
from mcp_pool.config.settings import DEFAULT, Seconds, timeout_problems
from mcp_pool.errors import ConfigError, UnknownTool
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.waiting import unavailable


async def find_tool(
    catalog: Catalog, name: str, timeout: Seconds, wait_timeout: float | None
) -> tuple[ToolEntry, Seconds]:
    """Find a tool; if a server that may offer it has not been listed yet, wait for that.

    Args:
        catalog: The catalog.
        name: The tool's name in the catalog.
        timeout: Seconds for the whole call, this wait included.
        wait_timeout: Seconds for this wait; None: no limit.

    Returns:
        The tool, and the rest of `timeout`.

    Raises:
        ServerUnavailable: The server was not listed in time, has failed or is closing.
        UnknownTool: No server offers the tool, or may still offer it.
        ConfigError: `timeout` is invalid.
    """
    if isinstance(found := catalog.find(name), ToolEntry):
        return found, timeout
    for problem in timeout_problems({"timeout": timeout}):
        reason = f"server {found.server_id!r}: {' '.join(problem)}. Nothing was sent."
        raise ConfigError(reason, server_id=found.server_id, problems=[problem])
    total = math.inf if timeout is DEFAULT or timeout is None else timeout
    started_at, row = anyio.current_time(), found
    with anyio.move_on_after(min(total, math.inf if wait_timeout is None else wait_timeout)):
        while not isinstance(found, ToolEntry):
            if found.is_final:
                raise unavailable([found])
            row = found
            await _wait_until_listed(row)
            try:
                found = catalog.find(name)
            except UnknownTool:
                if row.inventory is not None:
                    raise
                # Else it left before its first listing: whether it offers the tool is unknown.
    if isinstance(found, ToolEntry):
        return found, timeout if total == math.inf else max(0.0, total - (anyio.current_time() - started_at))
    raise unavailable([row])


async def _wait_until_listed(row: Row) -> None:
    await row.changed.until(lambda: row.inventory is not None or row.is_final)
