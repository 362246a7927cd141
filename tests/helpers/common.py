"""Helpers for tests of all areas."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

from mcp_pool import StdioServer
from servers import is_alive, misbehaving, read_lines

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from mcp_pool import MCPPool
    from mcp_pool.connection.connection import Connection
    from mcp_pool.supervision.row import Row

PATIENCE = 60.0
"""Seconds of real time for something that must happen soon: only a hang takes longer, however slow the machine is."""


async def eventually(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Wait until a condition holds, and fail if it does not hold in time."""
    deadline = time.monotonic() + within  # real time: the clock of the test may be virtual
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await anyio.sleep(0.01)  # files and processes do not notify anyone of changes


def scripted(*options: object, **fields: Any) -> StdioServer:
    """The spec of `misbehaving.py` with these options and fields."""
    command, args = misbehaving(*map(str, options))
    return StdioServer(command, args, **fields)


def started(pid_file: str | os.PathLike[str]) -> list[int]:
    """The process ids of all servers that have written to a `--pid-file`."""
    return [line["pid"] for line in read_lines(pid_file) if line["role"] == "server"]


def alive(pid_file: str | os.PathLike[str]) -> list[int]:
    """Those that are still running."""
    return [pid for pid in started(pid_file) if is_alive(pid)]


def row_of(pool: MCPPool, server_id: str) -> Row:
    """The row of a server in the registry, which is internal to the package."""
    return pool._supervisor.registry.rows[server_id]


def connection_of(pool: MCPPool, server_id: str) -> Connection:
    """The connection of a server, which is internal to the package."""
    connection = row_of(pool, server_id).connection
    assert connection is not None
    return connection
