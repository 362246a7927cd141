"""Helpers for tests of the stdio transport: servers that misbehave, and what can be observed of their processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_types import CallToolResult, TextContent

from helpers.common import eventually
from mcp_pool import ConnectionStatus, MCPPool, RestartPolicy, StdioServer
from servers import misbehaving, read_lines

if TYPE_CHECKING:
    pass

AT_ONCE = RestartPolicy(initial_delay=0.0, jitter=0.0)
"""Reconnects without a delay."""

NEVER = RestartPolicy.never()
"""Does not reconnect, so that a test sees only one connection."""

ROOM = 15.0
"""Seconds of real time that nothing here may take: what it is distinguished from takes longer, or forever."""


def server(*options: str, **fields: Any) -> StdioServer:
    """A server of `servers/misbehaving.py`; `fields` are fields of its spec."""
    command, arguments = misbehaving(*options)
    return StdioServer(command, arguments, **fields)


def changing_server(options: Path, *more: str, **fields: Any) -> StdioServer:
    """The same, but each start also takes options from a file."""
    command, arguments = misbehaving(*more)
    return StdioServer("sh", ["-c", 'exec "$@" $(cat "$0")', str(options), command, *arguments], **fields)


def recording_server(exit_code: Path, *options: str, **fields: Any) -> StdioServer:
    """The same, under a shell that records its exit code, unless the shell itself is killed."""
    command, arguments = misbehaving(*options)
    return StdioServer("sh", ["-c", '"$@"; echo $? > "$0"', str(exit_code), command, *arguments], **fields)


def program(code: str, *arguments: str, **fields: Any) -> StdioServer:
    """A process that runs a few lines of Python instead of a server."""
    return StdioServer(sys.executable, ["-I", "-S", "-c", code, *arguments], **fields)


def text(result: CallToolResult) -> str:
    """The text of a result that contains nothing else."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def process_id(pool: MCPPool, server_id: str) -> int:
    """The process of a connected server."""
    pid = pool.snapshot().servers[server_id].process_id
    assert pid is not None
    return pid


def roles(pid_file: Path, role: str) -> list[int]:
    """The process ids that a server recorded, over all its starts."""
    return [line["pid"] for line in read_lines(pid_file) if line["role"] == role]


def methods(ledger: Path) -> list[list[str]]:
    """The methods that arrived, in order, one list for each start of the server."""
    starts: dict[int, list[str]] = {}
    for line in read_lines(ledger):
        starts.setdefault(line["pid"], []).append(line["method"])
    return list(starts.values())


def calls_of(ledger: Path, tool: str) -> int:
    """How many calls of a tool have arrived, over all starts of the server."""
    return sum(line.get("tool") == tool for line in read_lines(ledger))


async def connected(pool: MCPPool, server_id: str) -> None:
    """Wait until a server is connected."""
    await eventually(lambda: pool.get_status(server_id) is ConnectionStatus.CONNECTED)


async def failed(pool: MCPPool, server_id: str) -> None:
    """Wait until a server has failed."""
    await eventually(lambda: pool.get_status(server_id) is ConnectionStatus.ERROR)
