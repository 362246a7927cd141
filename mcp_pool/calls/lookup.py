"""From a name in the catalog to what it stands for, with a wait for servers that have not been listed yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import anyio

from mcp_pool.config.settings import DEFAULT, Seconds, timeout_problems
from mcp_pool.connection.listing import Part
from mcp_pool.errors import ConfigError, UnknownPrompt, UnknownTool
from mcp_pool.supervision.entries import PromptEntry, ToolEntry
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.waiting import unavailable

_EntryT = TypeVar("_EntryT", ToolEntry, PromptEntry)


async def find(
    lookup: Callable[[str], _EntryT | Row], part: Part, name: str, timeout: Seconds, wait_timeout: float | None
) -> tuple[_EntryT, Seconds]:
    """Find a tool or a prompt; if a server that may offer it has not been listed yet, wait for that.

    Args:
        lookup: Looks it up in the catalog: returns its entry, or the row of the server to wait for.
        part: What it is: a part of what servers offer.
        name: Its name in the catalog.
        timeout: Seconds for the whole call, this wait included.
        wait_timeout: Seconds for this wait; None: no limit.

    Returns:
        The entry, and the rest of `timeout`.

    Raises:
        ServerUnavailable: The server was not listed in time, has failed or is closing.
        UnknownTool: No server offers the tool, or may still offer it. `UnknownPrompt` likewise.
        ToolHeld: The tool waits for approval.
        ConfigError: `timeout` is invalid.
    """
    found = lookup(name)
    if not isinstance(found, Row):
        return found, timeout
    for problem in timeout_problems({"timeout": timeout}):
        reason = f"server {found.server_id!r}: {' '.join(problem)}. Nothing was sent."
        raise ConfigError(reason, server_id=found.server_id, problems=[problem])
    total = math.inf if timeout is DEFAULT or timeout is None else timeout
    started_at, row = anyio.current_time(), found
    with anyio.move_on_after(min(total, math.inf if wait_timeout is None else wait_timeout)):
        while isinstance(found, Row):
            if found.is_final:
                raise unavailable([found])
            row = found
            await _wait_until_listed(row, part)
            try:
                found = lookup(name)
            except (UnknownTool, UnknownPrompt):
                if part in row.offering.listed:
                    raise
                # Else it left before its first listing: whether it offers the tool is unknown.
    if isinstance(found, Row):
        raise unavailable([row])
    return found, timeout if total == math.inf else max(0.0, total - (anyio.current_time() - started_at))


async def _wait_until_listed(row: Row, part: Part) -> None:
    await row.changed.until(lambda: part in row.offering.listed or row.is_final)
