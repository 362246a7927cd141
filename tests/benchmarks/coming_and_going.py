"""Memory use while servers with new ids are connected and disconnected again and again: it stays flat.

    python tests/benchmarks/coming_and_going.py [times]

Runs on asyncio, then on trio. Each server is a real in-process server with a real client. The pool remembers a limited
number of servers, so the first tenth says nothing about the rest. Objects are counted after a garbage collection.
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
    """The resident memory of this process in MiB (Linux only)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


async def come_and_go(times: int) -> None:
    """Connect and disconnect, and print the memory use ten times."""
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
    """Run as many times as the command line says."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    for backend in ("asyncio", "trio"):
        print(backend)
        anyio.run(come_and_go, times, backend=backend)


if __name__ == "__main__":
    main()
