"""What tests of all areas share."""

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
"""Seconds of real time for what must happen soon: only a hang takes longer, on however slow a machine."""


async def eventually(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Wait until a condition holds, and fail when it does not in time."""
    deadline = time.monotonic() + within  # real time: the clock of the test may be virtual
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await anyio.sleep(0.01)  # files and processes tell nobody when they change


def scripted(*options: object, **fields: Any) -> StdioServer:
    """The configuration of `misbehaving.py` with these options, and these fields of the specification."""
    command, args = misbehaving(*map(str, options))
    return StdioServer(command, args, **fields)


def started(pid_file: str | os.PathLike[str]) -> list[int]:
    """The process ids of all servers that have written themselves into a `--pid-file`."""
    return [line["pid"] for line in read_lines(pid_file) if line["role"] == "server"]


def alive(pid_file: str | os.PathLike[str]) -> list[int]:
    """Those of them that run."""
    return [pid for pid in started(pid_file) if is_alive(pid)]


def row_of(pool: MCPPool, server_id: str) -> Row:
    """The registry's row of a server, which nothing outside of the package can see."""
    return pool._supervisor.registry.rows[server_id]


def connection_of(pool: MCPPool, server_id: str) -> Connection:
    """The connection of a server, which nothing outside of the package can see."""
    connection = row_of(pool, server_id).connection
    assert connection is not None
    return connection
