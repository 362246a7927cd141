"""What a user does to servers while they are in use: restart, and remove."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

import anyio

from mcp_pool import ConnectError
from soak.bounds import CLOSE_TIMEOUT, MANAGE_BOUND
from soak.faults import Fault, World, anywhere
from soak.fleet import Target


@contextmanager
def bounded(world: World, what: str) -> Generator[None]:
    """Add a violation if something does not end in time."""
    with anyio.move_on_after(MANAGE_BOUND) as scope:
        yield
    if scope.cancelled_caught:
        world.violations.add("took too long", f"{what} took more than {MANAGE_BOUND} s")


async def restarted(world: World, target: Target, _chance: random.Random) -> None:
    """Request a new connection while the old one is in use."""
    # Another fault may affect it, too.
    with bounded(world, f"restart of {target.server_id}"), suppress(ConnectError):
        await world.pool.server(target.server_id).restart()


async def removed(world: World, target: Target, chance: random.Random) -> None:
    """Disconnect it, and add it again."""
    target.removals += 1
    with bounded(world, f"removal of {target.server_id}"):
        await world.pool.disconnect(target.server_id, drain=chance.choice((0.0, 2 * CLOSE_TIMEOUT)))
    world.pool.add(target.server_id, target.spec)
    target.removals += 1


FAULTS: Final = (
    Fault("restart by hand", 3, anywhere, restarted),
    Fault("removed, drained, and added again", 3, anywhere, removed),
)
