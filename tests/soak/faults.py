"""Faults: what a fault is, what it can access, and the tasks that inject one after another.

The faults are in the modules `faults_of_….py` and `faults_by_hand.py`. Each is a function that takes a bounded time and leaves its server able to recover.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio
import attrs

from mcp_pool import MCPPool
from soak.bounds import FAULT_PAUSE, FAULTERS
from soak.calls import Caller
from soak.findings import Violations
from soak.fleet import Target


class Missed(Exception):
    """There was nothing to do: the server was already gone."""


@attrs.define(eq=False)
class World:
    """What a fault can access."""

    pool: MCPPool
    targets: list[Target]
    caller: Caller
    violations: Violations
    faults: Counter[str] = attrs.Factory(Counter)
    """The faults so far, by description."""
    blocks: Counter[str] = attrs.Factory(Counter)
    """The blocks of additional pools so far, by how they ended."""
    programs: Counter[str] = attrs.Factory(Counter)
    """The programs with pools of their own so far, by how they ended."""
    under_way: dict[str, str] = attrs.Factory(dict)
    """What is running, in words: faults by the ids of their servers, the block of an additional pool, and a program."""

    @property
    def faulty(self) -> list[Target]:
        """The servers that get faults."""
        return [target for target in self.targets if not target.quiet]

    def pid(self, target: Target) -> int | None:
        """The process of a connected stdio server, which is a child of this program."""
        server = self.pool.snapshot().servers.get(target.server_id)
        return None if server is None else server.process_id

    def signal(self, target: Target, number: signal.Signals) -> int:
        """Send a signal to the process of a stdio server, and return the process id."""
        pid = self.pid(target)
        if pid is None:
            raise Missed
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it has exited, and the pool is about to notice
            raise Missed from None
        return pid


Injection: TypeAlias = Callable[[World, Target, random.Random], Awaitable[None]]


@attrs.frozen
class Fault:
    """An entry in a table of faults."""

    words: str
    """What happened to the server, for the report."""
    weight: int
    """How often it happens, relative to others."""
    suits: Callable[[Target], bool]
    """Whether it can be done to a server."""
    inject: Injection


def anywhere(_target: Target) -> bool:
    """Any server."""
    return True


def on_stdio(target: Target) -> bool:
    """Whether a server is a process that the pool starts."""
    return target.wire == "stdio"


def behind_url(target: Target) -> bool:
    """Whether a server is behind a URL."""
    return target.host is not None


def in_program(target: Target) -> bool:
    """Whether a server is in-process."""
    return target.marked is not None


async def inject_faults(world: World, faults: Sequence[Fault], seed: str, until: Callable[[], bool]) -> None:
    """Inject faults until it is time to stop, and return when the last one is over."""
    async with anyio.create_task_group() as group:
        for number in range(FAULTERS):
            group.start_soon(_inject_some, world, faults, random.Random(f"{seed}-{number}"), until)


async def _inject_some(world: World, faults: Sequence[Fault], chance: random.Random, until: Callable[[], bool]) -> None:
    """Inject one fault after another."""
    while not until():
        await anyio.sleep(chance.expovariate(1 / FAULT_PAUSE))
        target = chance.choice([target for target in world.faulty if not _is_busy(world, target)])
        fitting = [fault for fault in faults if fault.suits(target)]
        fault = chance.choices(fitting, [fault.weight for fault in fitting])[0]
        world.under_way[target.server_id] = f"{fault.words}: {target.server_id}"
        try:
            await fault.inject(world, target, chance)
            world.faults[fault.words] += 1
        except Missed:
            pass
        del world.under_way[target.server_id]


def _is_busy(world: World, target: Target) -> bool:
    """Whether a fault is active in a server, or in the process that it shares with others."""
    return any(
        other.server_id in world.under_way
        for other in world.targets
        if other is target or (target.host is not None and other.host is target.host)
    )
