"""One run on one backend: start, let things happen, mend, prove, close, and judge."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final

import anyio

from mcp_pool import InProcessServer, MCPPool, MCPPoolError
from soak import bounds, measure
from soak.blocks import opening
from soak.callers import Call, Caller, crowd
from soak.faults import World, trouble
from soak.faults_of_wires import FAULTS
from soak.findings import Findings
from soak.fleet import Target, fleet, over_stdio
from soak.journal import Journal, Violations, judged
from soak.servers.sdk_tools import MarkedServer
from soak.witnesses import Callbacks, Listener, Log, disagreement

PROOFS: Final = 3
"""How often each server has to answer at the end."""
LEAST_SLOTS: Final = 2
"""Calls at once that a server without `max_in_flight` has to take at the end."""


async def soak(backend: str, seconds: float, seed: int, directory: Path, tell: Callable[[str], None]) -> Findings:
    """Run on this event loop.

    Args:
        backend: Its name, for the report.
        seconds: How long things are let happen.
        seed: Decides what is chosen.
        directory: For ledgers, journal and logs.
        tell: Told how far it has come.
    """
    mark, log, violations = measure.marked(), Log(directory), Violations()
    await _warm_up(directory)
    before, objects = measure.present(mark), measure.objects()
    findings = await _observed(
        backend=backend,
        seconds=seconds,
        seed=seed,
        directory=directory,
        violations=violations,
        mark=mark,
        log=log,
        tell=tell,
    )
    for what, number in (await measure.left(before, mark)).items():
        violations.add("left behind", f"{number} x {what}")
    for what, number in (measure.objects() - objects).items():
        violations.add("objects of the package left behind", f"{number} x {what}")
    for text in log.lost:
        violations.add("an exception that nobody took", text)
    if grown := measure.growth(findings.samples):
        violations.add("memory has grown", grown)
    log.close()
    findings.ledgers = judged(directory, violations)
    findings.violations, findings.violations_in_all = violations.texts, violations.counts.total()
    return findings


async def _observed(
    *,
    backend: str,
    seconds: float,
    seed: int,
    directory: Path,
    violations: Violations,
    mark: str,
    log: Log,
    tell: Callable[[str], None],
) -> Findings:
    """Run, and say what was seen; of what ran, nothing is kept."""
    journal, callbacks = Journal(directory), Callbacks()
    async with fleet(directory) as targets:
        pool = MCPPool(
            {target.server_id: target.spec for target in targets},
            connect_timeout=bounds.CONNECT_TIMEOUT,
            open_timeout=bounds.OPEN_TIMEOUT,
            wait_timeout=bounds.WAIT_TIMEOUT,
            call_timeout=bounds.CALL_TIMEOUT,
            max_call_time=bounds.MAX_CALL_TIME,
            close_timeout=bounds.CLOSE_TIMEOUT,
            restart=bounds.RESTART,
            health=bounds.HEALTH,
            callbacks=callbacks.of,
        )
        caller = Caller(pool, journal, violations)
        world, listener = World(pool, targets, caller, violations), Listener(pool)

        def look() -> None:
            if wrong := disagreement(pool):
                violations.add("disagreement", wrong)

        sampler = measure.Sampler(pool, look)
        before = measure.present(mark)
        async with _ending(violations) as ended, pool, anyio.create_task_group() as group:
            group.start_soon(listener.run)
            await pool.wait_ready(timeout=bounds.READY_BOUND)
            tell(f"{len(targets)} servers are connected")
            tasks = await measure.standing()
            await _let_happen(world, sampler, seconds, seed)
            tell(f"{sum(caller.ends.values())} calls and {sum(world.counts.values())} faults have been")
            await _mend(world)
            await _prove(world)
            tell(f"{pool.connected_count} of {len(targets)} servers are back")
            tasks_after = await measure.standing()
            if tasks_after > tasks + bounds.TASKS_ROOM:
                violations.add("tasks have grown", f"there were {tasks} at the start, and {tasks_after} at the end")
            if listener.told != pool.get_all_statuses():
                violations.add("disagreement", "what the events told is not what the pool shows")
            restarts = pool.snapshot().restarts
            group.cancel_scope.cancel()
            ended.append(anyio.current_time())
        for what, number in (await measure.left(before, mark)).items():
            violations.add("left behind by the block", f"{number} x {what}")
    journal.close()
    return Findings(
        backend=backend,
        servers=dict(Counter(target.wire for target in targets)),
        seconds=seconds,
        faults=world.counts,
        ends=caller.ends,
        blocks=world.blocks,
        restarts=restarts,
        logged=log.counts,
        notifications=callbacks.heard,
        figures={
            "most calls under way": caller.most,
            "reports of progress": caller.progressed,
            "events": listener.events,
            "slowest call, s beyond its work": round(caller.slowest, 2),
            "the same on servers left alone, s": round(caller.slowest_quiet, 2),
            "end of the block, s": round(ended[1] - ended[0], 2),
            "tasks at the start, nothing happening": tasks,
            "tasks at the end, nothing happening": tasks_after,
        },
        samples=sampler.samples,
        violations=[],
    )


@asynccontextmanager
async def _ending(violations: Violations) -> AsyncGenerator[list[float]]:
    """Measure how long the end of what is within takes; its beginning is to be put into the list."""
    times: list[float] = []
    yield times
    times.append(anyio.current_time())
    if times[1] - times[0] > bounds.END_BOUND:
        violations.add("took too long", f"the end of the block took {times[1] - times[0]:.1f} s")


async def _warm_up(directory: Path) -> None:
    """Import, fill and start what is once for a process: modules, caches, and descriptors that live with the loop."""
    await anyio.run_process([sys.executable, "-c", ""])
    marked = MarkedServer(lambda _ticket: None)
    specs = {
        "stdio": over_stdio(directory / "warm-up", count(1))[0].spec,
        "inner": InProcessServer(marked.server),
        "older": InProcessServer(marked.server, mode="legacy"),
    }
    (directory / "warm-up").mkdir()
    async with MCPPool(specs) as pool, anyio.create_task_group() as group:
        for server_id in specs:
            group.start_soon(pool.server(server_id).call_tool, "work", {"ticket": "0"})


async def _let_happen(world: World, sampler: measure.Sampler, seconds: float, seed: int) -> None:
    """Let callers call, servers be harmed and blocks be left, for so long; then wait for the calls under way."""
    ends_at = anyio.current_time() + seconds
    done = anyio.Event()

    async def calling() -> None:
        await crowd(world.caller, world.targets, seed, lambda: anyio.current_time() >= ends_at)
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        group.start_soon(trouble, world, FAULTS, seed)
        group.start_soon(opening, world, f"{seed}-blocks")
        group.start_soon(calling)
        with anyio.CancelScope(deadline=ends_at + bounds.CALL_BOUND + bounds.LONGEST_PAUSE):
            await done.wait()
        if not done.is_set():
            for what in world.caller.under_way.values():
                world.violations.add("never ended", what)
        group.cancel_scope.cancel()


async def _mend(world: World) -> None:
    """Let every process run, every wire flow, and wait until every server is connected."""
    for target in world.targets:
        if target.host is not None:
            await target.host.mend()
    for pid in tuple(world.stopped):
        for target in world.targets:
            world.let_go_on(target, pid)
    try:
        await world.pool.wait_ready(timeout=bounds.READY_BOUND)
    except MCPPoolError as error:
        world.violations.add("not back", str(error))


async def _prove(world: World) -> None:
    """Let every server answer, and show that all of its slots are to be had at once."""
    async with anyio.create_task_group() as group:
        for target in world.targets:
            group.start_soon(_proved, world, target)


async def _proved(world: World, target: Target) -> None:
    attempts = count(1)
    with anyio.move_on_after(bounds.PROOF_BOUND) as bound:
        # What a flood has left in a pipe may still end a connection, and one server dies of its own accord.
        while not await _is_well(world, target, next(attempts)):  # noqa: ASYNC110 - each look is a round of calls
            await anyio.sleep(bounds.PAUSE)
    if bound.cancelled_caught:
        world.violations.add(
            "not back", f"{target.server_id} does not answer, or not as many calls at once as it should"
        )


async def _is_well(world: World, target: Target, attempt: int) -> bool:
    """Tell whether a server answers some calls one after the other, and then as many at once as it has slots."""
    for _ in range(PROOFS):
        if not await world.caller.call(target, Call(tool="work", timeout=bounds.PROOF_TIMEOUT, may_fail=True)):
            return False
    slots = target.spec.max_in_flight or LEAST_SLOTS
    answered: list[bool] = []
    # Each of them is answered when all of them are there.
    arguments = {"party": f"{target.server_id}-{attempt}", "count": slots}
    call = Call(tool="gather", arguments=arguments, timeout=bounds.PROOF_TIMEOUT, may_fail=True)

    async def gather() -> None:
        answered.append(await world.caller.call(target, call))

    async with anyio.create_task_group() as group:
        for _ in range(slots):
            group.start_soon(gather)
    return all(answered)
