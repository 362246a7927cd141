"""Programs with a pool of their own that are killed, interrupted twice or left early: none of their servers may stay."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from servers import is_alive, misbehaving, read_lines
from soak import bounds
from soak.faults import World

PROGRAM: Final = Path(__file__).parents[1] / "servers" / "leaving_host.py"
WAYS: Final = ("killed", "exit", "interrupts", "return")
"""How such a program ends: `killed` by SIGKILL, the others as `leaving_host.py` says."""
SERVERS: Final = {
    "polite": ("--modern", "--helper"),
    "with a helper in a group of its own": ("--helper", "--own-group"),
    "ignores everything": ("--stubborn", "--helper"),
}
PAUSE: Final = 15.0
"""The mean time between two programs: each loads the package, which disturbs what it is to run beside."""
BOUND: Final = 60.0
"""For a program to open its pool, and to end."""


async def running_programs(world: World, directory: Path, backend: str, seed: str, until: Callable[[], bool]) -> None:
    """Run one program after another, until it is time to stop."""
    chance = random.Random(seed)
    pids = directory / "program.pids"
    ways = [way for way in WAYS if way != "return" or backend != "trio"]  # trio waits for its tasks
    while not until():
        await anyio.sleep(min(chance.expovariate(1 / PAUSE), bounds.LONGEST_PAUSE))
        way = chance.choice(ways)
        world.under_way["program"] = f"a program that ends: {way}"
        pids.write_bytes(b"")
        with anyio.move_on_after(2 * BOUND) as bound:
            await _run("asyncio+uvloop" if backend == "uvloop" else backend, way, pids)
        if bound.cancelled_caught:
            world.violations.add("took too long", f"a program did not end: {way}")
        with anyio.move_on_after(bounds.GUARDIAN_BOUND):
            while _left(pids):  # noqa: ASYNC110 - there are no events for processes that are not our children
                await anyio.sleep(0.1)
        if left := _left(pids):
            world.violations.add("left behind by a program", f"{way}: {left}")
        world.programs[way] += 1
        del world.under_way["program"]


def _left(pids: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(pids) if is_alive(line["pid"])]


async def _run(backend: str, way: str, pids: Path) -> None:
    servers = {
        name: (*misbehaving(*options, "--pid-file", str(pids)), bounds.CLOSE_TIMEOUT)
        for name, options in SERVERS.items()
    }
    options = {"backend": backend, "how": way, "servers": servers, "pids": str(pids)}
    command = [sys.executable, str(PROGRAM), json.dumps(options)]
    async with await anyio.open_process(command, stdin=DEVNULL, stderr=DEVNULL) as process:
        assert process.stdout is not None
        output = BufferedByteReceiveStream(process.stdout)
        await output.receive_until(b"open\n", 1000)
        match way:
            case "killed":
                process.kill()
            case "exit":
                process.terminate()
            case "interrupts":
                process.send_signal(signal.SIGINT)
                await output.receive_until(b"closing\n", 1000)
                await _interrupted(process)
            case _:
                pass
        await process.wait()


async def _interrupted(process: Process) -> None:
    """Interrupt it until it ends: an interrupt may hit code that does not end at once."""
    while process.returncode is None:
        process.send_signal(signal.SIGINT)
        with anyio.move_on_after(2 * bounds.CLOSE_TIMEOUT):
            await process.wait()
