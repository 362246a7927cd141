"""Real processes of a package runner are started a few at a time, and hold up nobody else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from helpers.common import eventually, scripted
from helpers.stdio import connected
from mcp_pool import MCPPool, StdioServer
from servers import misbehaving

if TYPE_CHECKING:
    from pathlib import Path

RUNNER = """#!/bin/sh
# Writes down that it starts, is told by a file that it may go on, and becomes the server.
echo "$2" >> "$1"
until [ -e "$2" ]; do sleep 0.02; done
shift 2
exec "$@"
"""


def runner(directory: Path) -> None:
    """Put a package runner into a directory."""
    script = directory / "npx"
    script.write_text(RUNNER)
    script.chmod(0o755)


def runs(directory: Path, server_id: str) -> StdioServer:
    """A server that it starts."""
    command, arguments = misbehaving()
    path = f"{directory}:{os.environ['PATH']}"
    return StdioServer(
        "npx", [str(directory / "started"), str(directory / server_id), command, *arguments], env={"PATH": path}
    )


async def test_a_package_runner_starts_two_servers_at_once_and_the_next_when_one_is_connected(tmp_path: Path) -> None:
    runner(tmp_path)
    ids = [f"runner {number}" for number in range(5)]

    def started() -> list[str]:
        log = tmp_path / "started"
        return [line.rpartition("/")[2] for line in log.read_text().splitlines()] if log.exists() else []

    async with MCPPool(connect_timeout=None) as pool:
        for server_id in ids:
            pool.add(server_id, runs(tmp_path, server_id))
        for done in range(len(ids)):
            await eventually(lambda done=done: len(started()) == min(done + 2, len(ids)))
            # Another server that comes now is connected, and none of those that came before it has begun meanwhile.
            await pool.connect(f"other {done}", scripted())
            assert len(started()) == min(done + 2, len(ids))
            opened = started()[done]
            (tmp_path / opened).touch()
            await connected(pool, opened)
        assert sorted(started()) == ids
        assert pool.connected_count == 2 * len(ids)
