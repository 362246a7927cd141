"""Memory while servers with ever new ids are connected and disconnected: it stays flat.

    python benchmarks/coming_and_going.py [times]

First on asyncio and then on trio. Each server is a real one of this program, with a real client. What is kept of the
remembered is bounded by number, so the first tenth is no measure of the rest. Objects are counted after a collection.
"""

import gc
import resource
import sys
from pathlib import Path

import anyio
from mcp.server import MCPServer

from mcp_pool import InProcessServer, MCPPool

TIMES = 100_000
REPORTS = 10


def resident() -> float:
    """The resident memory of this process in MiB, which Linux tells."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


async def come_and_go(times: int) -> None:
    """Connect and disconnect, and say ten times what is held."""
    spec = InProcessServer(MCPServer("one of many"))
    async with MCPPool() as pool:
        for number in range(1, times + 1):
            await pool.connect(str(number), spec)
            await pool.disconnect(str(number))
            if number % max(1, times // REPORTS) == 0:
                gc.collect()
                tasks = len(anyio.get_running_tasks())
                print(f"{number:>8,} {resident():8.1f} MiB {len(gc.get_objects()):>10,} objects {tasks:>4} tasks")
                sys.stdout.flush()


def main() -> None:
    """Run as often as the command line says."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    for backend in ("asyncio", "trio"):
        print(backend)
        anyio.run(come_and_go, times, backend=backend)


if __name__ == "__main__":
    main()
