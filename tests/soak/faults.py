"""Faults: what one is, what it can lay hands on, and the tasks that let one after another befall servers.

What they are stands in `faults_of_servers.py`, `faults_of_wires.py`, `faults_of_calls.py` and `faults_by_hand.py`. Each
is a function that takes its time, is bounded, and leaves its server able to come back.
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
    """There was nothing to harm: the server was away already."""


@attrs.define(eq=False)
class World:
    """What a fault can lay hands on."""

    pool: MCPPool
    targets: list[Target]
    caller: Caller
    violations: Violations
    faults: Counter[str] = attrs.Factory(Counter)
    """The faults so far, by their words."""
    blocks: Counter[str] = attrs.Factory(Counter)
    """The blocks of further pools so far, by how they were left."""
    under_way: dict[str, str] = attrs.Factory(dict)
    """What has not ended, in words: faults by the ids of their servers, and the block of a further pool."""

    @property
    def harmed(self) -> list[Target]:
        """The servers that are not to be left alone."""
        return [target for target in self.targets if not target.quiet]

    def pid(self, target: Target) -> int | None:
        """The process of a connected server over stdio, which is a child of this program."""
        server = self.pool.snapshot().servers.get(target.server_id)
        return None if server is None else server.process_id

    def signal(self, target: Target, number: signal.Signals) -> int:
        """Send a signal to the process of a server over stdio, and return the id of the process."""
        pid = self.pid(target)
        if pid is None:
            raise Missed
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it has ended, and the pool is about to find out
            raise Missed from None
        return pid


Harm: TypeAlias = Callable[[World, Target, random.Random], Awaitable[None]]


@attrs.frozen
class Fault:
    """An entry of a table of faults."""

    words: str
    """What happened to the server, for the report."""
    weight: int
    """How often it happens, compared with others."""
    suits: Callable[[Target], bool]
    """Whether it can be done to a server."""
    harm: Harm


def anywhere(_target: Target) -> bool:
    """Any server."""
    return True


def on_stdio(target: Target) -> bool:
    """Whether a server has a process of its own."""
    return target.wire == "stdio"


def behind_url(target: Target) -> bool:
    """Whether a server is behind a URL."""
    return target.host is not None


def in_program(target: Target) -> bool:
    """Whether a server is in this program."""
    return target.marked is not None


async def trouble(world: World, faults: Sequence[Fault], seed: str, until: Callable[[], bool]) -> None:
    """Let faults befall servers until told to end, and return when the last has passed."""
    async with anyio.create_task_group() as group:
        for number in range(FAULTERS):
            group.start_soon(_harming, world, faults, random.Random(f"{seed}-{number}"), until)


async def _harming(world: World, faults: Sequence[Fault], chance: random.Random, until: Callable[[], bool]) -> None:
    """Let one fault after another befall servers."""
    while not until():
        await anyio.sleep(chance.expovariate(1 / FAULT_PAUSE))
        target = chance.choice([target for target in world.harmed if not _is_busy(world, target)])
        fitting = [fault for fault in faults if fault.suits(target)]
        fault = chance.choices(fitting, [fault.weight for fault in fitting])[0]
        world.under_way[target.server_id] = f"{fault.words}: {target.server_id}"
        try:
            await fault.harm(world, target, chance)
            world.faults[fault.words] += 1
        except Missed:
            pass
        del world.under_way[target.server_id]


def _is_busy(world: World, target: Target) -> bool:
    """Whether a fault is befalling a server, or the process that it shares with others."""
    return any(
        other.server_id in world.under_way
        for other in world.targets
        if other is target or (target.host is not None and other.host is target.host)
    )
