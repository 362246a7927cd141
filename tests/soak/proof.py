"""The check that every server has recovered: it is connected, it answers, and all of its slots are available."""

from __future__ import annotations

from itertools import count
from typing import Final

import anyio

from mcp_pool import MCPPoolError
from soak.bounds import PAUSE, PROOF_BOUND, PROOF_TIMEOUT, READY_BOUND
from soak.calls import Call
from soak.faults import World
from soak.fleet import Target

PROOFS: Final = 3
"""How often each server must answer."""
LEAST_SLOTS: Final = 2
"""How many concurrent calls a server without `max_in_flight` must accept."""


async def prove(world: World) -> None:
    """Wait until every server is connected, call all of them, and add a violation for those that do not answer."""
    try:
        await world.pool.wait_ready(timeout=READY_BOUND)
    except MCPPoolError as error:
        world.violations.add("not recovered", str(error))
    async with anyio.create_task_group() as group:
        for target in world.targets:
            group.start_soon(_proved, world, target)


async def _proved(world: World, target: Target) -> None:
    attempts = count(1)
    with anyio.move_on_after(PROOF_BOUND) as bound:
        # Data that a flood has left in a pipe may still end a connection, and one server exits by itself.
        while not await _is_well(world, target, next(attempts)):  # noqa: ASYNC110 - each check is a round of calls
            await anyio.sleep(PAUSE)
    if bound.cancelled_caught:
        words = f"{target.server_id} does not answer, or not as many calls at once as it should"
        world.violations.add("not recovered", words)


async def _is_well(world: World, target: Target, attempt: int) -> bool:
    """Return whether a server answers a few calls one after another, and then as many at once as it has slots."""
    for _ in range(PROOFS):
        if not await world.caller.call(target, Call(tool="work", timeout=PROOF_TIMEOUT, may_fail=True)):
            return False
    slots = target.spec.max_in_flight or LEAST_SLOTS
    answered: list[bool] = []
    # Each of them is answered when all of them have arrived.
    arguments = {"party": f"{target.server_id}-{attempt}", "count": slots}
    call = Call(tool="gather", arguments=arguments, timeout=PROOF_TIMEOUT, may_fail=True)

    async def gather() -> None:
        answered.append(await world.caller.call(target, call))

    async with anyio.create_task_group() as group:
        for _ in range(slots):
            group.start_soon(gather)
    return all(answered)
