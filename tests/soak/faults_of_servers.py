"""What befalls servers themselves: their processes, and the tasks of those in this program."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio

from soak.bounds import SILENCE_BOUND
from soak.faults import Fault, Harm, World, behind_url, in_program, on_stdio
from soak.fleet import Target

LONGEST_STOP: Final = 6.0
"""Twice the time after which silence is found out: some servers that are stopped live to go on, and some do not."""
LOOK: Final = 0.2
"""Seconds between two looks at a process that is to be given up."""
LONGEST_OUTAGE: Final = 1.5
"""How long a server stays down that was killed."""


def signalled(number: signal.Signals) -> Harm:
    """End a process by a signal; some do not listen to every one."""

    async def send(world: World, target: Target, _chance: random.Random) -> None:
        world.signal(target, number)

    return send


@contextmanager
def frozen(world: World, target: Target) -> Generator[int]:
    """Stop a process as it is, and let it go on at the end, unless the pool has ended it."""
    pid = world.signal(target, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if world.pid(target) == pid:
            os.kill(pid, signal.SIGCONT)


async def stopped(world: World, target: Target, chance: random.Random) -> None:
    """Let it be silent while its connection stands, for some time."""
    with frozen(world, target):
        await anyio.sleep(LONGEST_STOP * chance.random())


async def silenced(world: World, target: Target, _chance: random.Random) -> None:
    """Let it be silent for ever."""
    with frozen(world, target) as pid, anyio.move_on_after(SILENCE_BOUND) as bound:
        while world.pid(target) == pid:  # noqa: ASYNC110 - the pool tells of the server, not of its process
            await anyio.sleep(LOOK)
    if bound.cancelled_caught:
        world.violations.add("not found out", f"{target.server_id} was silent for {SILENCE_BOUND} s")


async def host_killed(_world: World, target: Target, chance: random.Random) -> None:
    """End all servers of a process without warning, and start it again."""
    await target.behind.process.kill()
    await anyio.sleep(LONGEST_OUTAGE * chance.random())
    await target.behind.process.start()


async def host_stopped(_world: World, target: Target, chance: random.Random) -> None:
    """Let all servers of a process be silent for some time."""
    target.behind.process.pause()
    await anyio.sleep(LONGEST_STOP * chance.random())
    target.behind.process.resume()


async def broken_down(_world: World, target: Target, _chance: random.Random) -> None:
    """Let the task of a server in this program end with an error."""
    if target.marked is not None:
        target.marked.breaking.set()


FAULTS: Final = (
    Fault("process killed (SIGKILL)", 6, on_stdio, signalled(signal.SIGKILL)),
    Fault("process asked to end (SIGTERM)", 3, on_stdio, signalled(signal.SIGTERM)),
    Fault("process stopped (SIGSTOP), and let go on", 6, on_stdio, stopped),
    Fault("process stopped (SIGSTOP) until it was found out", 3, on_stdio, silenced),
    Fault("process behind a URL killed, and started again", 3, behind_url, host_killed),
    Fault("process behind a URL stopped, and let go on", 4, behind_url, host_stopped),
    Fault("breakdown of a server in this program", 4, in_program, broken_down),
)
