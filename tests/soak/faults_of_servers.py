"""Faults of servers themselves: their processes, and the tasks of in-process servers."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio

from soak.bounds import SILENCE_BOUND
from soak.faults import Fault, Injection, World, behind_url, in_program, on_stdio
from soak.fleet import Target

LONGEST_STOP: Final = 6.0
"""Twice the time after which silence is detected: some servers that are stopped are resumed in time, and some are not."""
LOOK: Final = 0.2
"""Seconds between two checks of a process that should be ended."""
LONGEST_OUTAGE: Final = 1.5
"""How long a server that was killed stays down."""


def signalled(number: signal.Signals) -> Injection:
    """End a process by a signal; some ignore some signals."""

    async def send(world: World, target: Target, _chance: random.Random) -> None:
        world.signal(target, number)

    return send


@contextmanager
def frozen(world: World, target: Target) -> Generator[int]:
    """Suspend a process, and resume it at the end, unless the pool has ended it."""
    pid = world.signal(target, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if world.pid(target) == pid:
            os.kill(pid, signal.SIGCONT)


async def stopped(world: World, target: Target, chance: random.Random) -> None:
    """Keep it silent for some time while its connection is open."""
    with frozen(world, target):
        await anyio.sleep(LONGEST_STOP * chance.random())


async def silenced(world: World, target: Target, _chance: random.Random) -> None:
    """Keep it silent forever."""
    with frozen(world, target) as pid, anyio.move_on_after(SILENCE_BOUND) as bound:
        while world.pid(target) == pid:  # noqa: ASYNC110 - there are events for servers, not for processes
            await anyio.sleep(LOOK)
    if bound.cancelled_caught:
        world.violations.add("not detected", f"{target.server_id} was silent for {SILENCE_BOUND} s")


async def host_killed(_world: World, target: Target, chance: random.Random) -> None:
    """Kill the process of several servers, and start it again."""
    await target.behind.process.kill()
    await anyio.sleep(LONGEST_OUTAGE * chance.random())
    await target.behind.process.start()


async def host_stopped(_world: World, target: Target, chance: random.Random) -> None:
    """Keep all servers of a process silent for some time."""
    target.behind.process.pause()
    await anyio.sleep(LONGEST_STOP * chance.random())
    target.behind.process.resume()


async def broken_down(_world: World, target: Target, _chance: random.Random) -> None:
    """Make the task of an in-process server end with an error."""
    if target.marked is not None:
        target.marked.breaking.set()


FAULTS: Final = (
    Fault("process killed (SIGKILL)", 6, on_stdio, signalled(signal.SIGKILL)),
    Fault("process terminated (SIGTERM)", 3, on_stdio, signalled(signal.SIGTERM)),
    Fault("process stopped (SIGSTOP), then resumed", 6, on_stdio, stopped),
    Fault("process stopped (SIGSTOP) until it was detected", 3, on_stdio, silenced),
    Fault("process behind a URL killed, then started again", 3, behind_url, host_killed),
    Fault("process behind a URL stopped, then resumed", 4, behind_url, host_stopped),
    Fault("error in an in-process server's task", 4, in_program, broken_down),
)
