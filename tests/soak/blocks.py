"""Additional pools, whose blocks end in every possible way while everything else runs, and must leave nothing behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import attrs

from mcp_pool import MCPPool
from soak import bounds
from soak.callers import chosen
from soak.faults import World
from soak.fleet import Target, pool_of

SIZE: Final = 4
"""How many servers each of these pools has."""
CALLS: Final = 8
"""How many concurrent calls each of them gets."""
WAYS: Final = (
    "at its end",
    "by an exception",
    "by cancellation",
    "by pool.cancel()",
    "after close_all()",
    "while it opens",
)


class Leaving(Exception):
    """An error that ends a block."""


async def opening(world: World, seed: str, until: Callable[[], bool]) -> None:
    """Open one block after another, until it is time to stop."""
    chance = random.Random(seed)
    while not until():
        await anyio.sleep(chance.expovariate(1 / bounds.PAUSE))
        targets = chance.sample(world.faulty, SIZE)
        block = Block(world, targets, chance.choice(WAYS), chance)
        world.under_way["block"] = f"a block that ends {block.way}"
        await block.run()
        del world.under_way["block"]
        world.blocks[block.way] += 1


@attrs.define
class Block:
    """A block that is opened, used and ended."""

    world: World
    targets: Sequence[Target]
    way: str
    """How it ends."""
    chance: random.Random
    scope: anyio.CancelScope = attrs.Factory(anyio.CancelScope)
    end_began: float | None = None
    """When it started to end; None if it has not, or if the scope's deadline determines that."""

    async def run(self) -> None:
        """Open it, use it, end it, and check that no other error leaves it."""
        leaving = Leaving(self.way)
        pool = pool_of(self.targets, open_timeout=bounds.WAIT_TIMEOUT)
        if self.way == "while it opens":
            self.scope.deadline = anyio.current_time() + self.chance.random()
        with self.scope:
            try:
                async with pool:
                    await self._use(pool)
                    self.end_began = anyio.current_time()
                    if self.way == "by an exception":
                        raise leaving
            except Leaving as error:
                if error is not leaving or error.__cause__ is not None:
                    self._complain("ended by another error", repr(error))
        seconds = anyio.current_time() - (self.end_began or self.scope.deadline)
        if seconds > bounds.END_BOUND:
            self._complain("took too long", f"ending it took {seconds:.1f} s")
        if pool.servers or pool.connected_count:
            self._complain("left behind", f"servers {list(pool.servers)}")

    async def _use(self, pool: MCPPool) -> None:
        """Make calls, some of which are still running when the block is cancelled or all servers are closed."""
        async with anyio.create_task_group() as group:
            for _ in range(CALLS):
                target = self.chance.choice(self.targets)
                group.start_soon(self.world.caller.call, target, chosen(self.chance, target), pool)
            await anyio.sleep(self.chance.random())
            match self.way:
                case "by cancellation":
                    self.end_began = anyio.current_time()
                    self.scope.cancel()
                case "by pool.cancel()":
                    self.end_began = anyio.current_time()
                    pool.cancel()
                case "after close_all()":
                    await pool.close_all(drain=self.chance.choice((0.0, bounds.CLOSE_TIMEOUT)))
                    if pool.servers:
                        self._complain("left behind", f"servers {list(pool.servers)} after close_all()")
                case _:
                    pass

    def _complain(self, kind: str, words: str) -> None:
        self.world.violations.add(kind, f"a block that ended {self.way}: {words}")
