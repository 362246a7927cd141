"""A program that keeps running while its configuration file is edited.

python examples/follow_config.py FILE

Without FILE, it edits a copy of `servers.json` itself. Needs the extras `watch` and `config`.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio

from mcp_pool import ConfigRejected, ConnectionStatus, EventStream, MCPPool, ServerRemoved, StatusChanged

EXAMPLES = Path(__file__).parent


async def follow(path: Path, *, forever: bool) -> None:
    """Serve what the file contains, and print what changes."""
    async with MCPPool.from_config(path) as pool, pool.events() as events, pool.watch_config(path):
        print("servers:", ", ".join(pool.servers))
        if forever:
            async for event in events:
                show(event)
        await edit(anyio.Path(path), events)
        print("servers:", ", ".join(pool.servers))


def show(event: object) -> None:
    """Print an event."""
    if isinstance(event, StatusChanged):
        print(event.server_id, "is", event.status.value)
    elif isinstance(event, ServerRemoved):
        print(event.server_id, "has left")
    elif isinstance(event, ConfigRejected):
        print("the file was not applied:", event.error)


async def edit(path: anyio.Path, events: EventStream) -> None:
    """Do what a person might do with the file."""
    original = await path.read_text()
    await path.write_text(original.replace('"notes"', '"diary"'))
    await printed(events, lambda event: isinstance(event, StatusChanged) and event.status is ConnectionStatus.CONNECTED)
    await path.write_text(original.replace('"args"', '"arg"'))
    await printed(events, lambda event: isinstance(event, ConfigRejected))


async def printed(events: EventStream, is_last: Callable[[object], bool]) -> None:
    """Print events up to one of this kind."""
    async for event in events:
        show(event)
        if is_last(event):
            return


async def main() -> None:
    """Follow a file."""
    os.environ.setdefault("PYTHON", sys.executable)
    if len(sys.argv) > 1:
        await follow(Path(sys.argv[1]), forever=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "servers.json"
        text = (EXAMPLES / "servers.json").read_text()
        path.write_text(text.replace("${workspaceFolder}", str(EXAMPLES)))
        await follow(path, forever=False)


if __name__ == "__main__":
    anyio.run(main)
