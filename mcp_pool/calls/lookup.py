"""From a name in the catalog to the tool of a server, which may have to be waited for."""

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
    """Find a tool, and wait for the first listing of a server that may offer it.

    Args:
        catalog: Where to look.
        name: The tool's name in the catalog.
        timeout: Seconds for the call as a whole, this wait included.
        wait_timeout: Seconds for this wait; None: no bound.

    Returns:
        The tool, and what is left of `timeout`.

    Raises:
        ServerUnavailable: A server that may offer it was not listed in time, has failed or is leaving.
        UnknownTool: There is none that may offer it.
        ConfigError: `timeout` is wrong.
    """
    if isinstance(found := catalog.find(name), ToolEntry):
        return found, timeout
    for problem in timeout_problems({"timeout": timeout}):
        reason = f"server {found.server_id!r}: {' '.join(problem)}. Nothing was sent."
        raise ConfigError(reason, server_id=found.server_id, problems=[problem])
    whole = math.inf if timeout is DEFAULT or timeout is None else timeout
    begun, row = anyio.current_time(), found
    with anyio.move_on_after(min(whole, math.inf if wait_timeout is None else wait_timeout)):
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
                # Else it has left before it was listed: whether it offers the tool is not known.
    if isinstance(found, ToolEntry):
        return found, timeout if whole == math.inf else max(0.0, whole - (anyio.current_time() - begun))
    raise unavailable([row])


async def _wait_until_listed(row: Row) -> None:
    await row.changed.until(lambda: row.inventory is not None or row.is_final)
