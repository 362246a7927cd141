"""One run on one backend: start, inject faults, check that everything recovers, close, and check what is left."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import anyio
import attrs

import mcp_pool
from mcp_pool import InProcessServer, MCPPool
from soak import (
    bounds,
    faults_by_hand,
    faults_of_calls,
    faults_of_servers,
    faults_of_users,
    faults_of_wires,
    leftovers,
    measure,
)
from soak.blocks import opening
from soak.callers import run_callers
from soak.calls import Caller
from soak.faults import World, inject_faults
from soak.findings import Findings, Violations
from soak.fleet import fleet, over_stdio, pool_of
from soak.journal import Journal, judged
from soak.logs import Log
from soak.programs import running_programs
from soak.proof import prove
from soak.servers.sdk_tools import MarkedServer
from soak.witnesses import Callbacks, EventReader, disagreement

FAULTS: Final = (
    *faults_of_servers.FAULTS,
    *faults_of_wires.FAULTS,
    *faults_of_calls.FAULTS,
    *faults_of_users.FAULTS,
    *faults_by_hand.FAULTS,
)


@attrs.frozen(kw_only=True)
class Order:
    """The parameters of a run."""

    backend: str
    """The backend's name, for the report."""
    seconds: float
    """How long faults are injected."""
    seed: int
    """The seed of all random choices."""
    directory: Path
    """Where to put ledgers, journal and logs."""
    report_progress: Callable[[str], None]
    """Called to report progress."""


async def soak(order: Order) -> Findings:
    """Run on this event loop."""
    log, violations = Log(order.directory), Violations()
    await _warm_up(order.directory)
    before, objects = leftovers.present(), leftovers.objects()
    findings = await _observed(order, violations)
    for what, number in (await leftovers.left(before)).items():
        violations.add("left behind", f"{number} x {what}")
    for what, number in (leftovers.objects() - objects).items():
        violations.add("objects of the package left behind", f"{number} x {what}")
    for text in log.lost:
        violations.add("unhandled exception", text)
    if grown := measure.growth(findings.samples):
        violations.add("memory has grown", grown)
    log.close()
    findings.logged = log.counts
    findings.ledgers = judged(order.directory, violations)
    return findings


async def _observed(order: Order, violations: Violations) -> Findings:
    """Run, and return the results without references to anything that ran."""
    journal, callbacks = Journal(order.directory), Callbacks()
    async with fleet(order.directory) as targets:
        pool = pool_of(targets, open_timeout=bounds.OPEN_TIMEOUT, callbacks=callbacks.of)
        world = World(pool, targets, Caller(pool, journal, violations), violations)
        reader = EventReader(pool)

        def look() -> None:
            if wrong := disagreement(pool):
                violations.add("disagreement", wrong)

        sampler = measure.Sampler(pool, look)
        before = leftovers.present()
        async with pool, anyio.create_task_group() as group:
            group.start_soon(reader.run)
            await pool.wait_ready(timeout=bounds.READY_BOUND)
            order.report_progress(f"{len(targets)} servers are connected")
            at_start = await measure.idle_usage()
            await _let_happen(world, sampler, order)
            order.report_progress(f"{world.caller.ends.total()} calls and {world.faults.total()} faults were made")
            await prove(world)
            order.report_progress(f"{pool.connected_count} of {len(targets)} servers are connected again")
            at_end = await measure.idle_usage()
            for what, room in bounds.IDLE_ROOM.items():
                if at_end[what] > at_start[what] + room:
                    words = f"{at_start[what]} at the start, {at_end[what]} at the end"
                    violations.add(f"{what} have grown", words)
            look()
            if not await reader.agrees():
                violations.add("disagreement", "the events and the pool do not agree")
            restarts = pool.snapshot().restarts
            group.cancel_scope.cancel()
            leaving_at = anyio.current_time()
        end = anyio.current_time() - leaving_at
        if end > bounds.END_BOUND:
            violations.add("took too long", f"the end of the block took {end:.1f} s")
        for what, number in (await leftovers.left(before)).items():
            violations.add("left behind by the block", f"{number} x {what}")
    journal.close()
    return Findings(
        backend=order.backend,
        servers=dict(Counter(target.wire for target in targets)),
        seconds=order.seconds,
        faults=world.faults,
        ends=world.caller.ends,
        blocks=world.blocks,
        programs=world.programs,
        figures={
            "reconnects": restarts,
            "notifications delivered": callbacks.heard,
            "progress reports": world.caller.progressed,
            "events": reader.events,
            "most calls in flight": world.caller.most,
            "slowest call, s beyond its tool's own time": round(world.caller.slowest, 2),
            "the same on servers without faults, s": round(world.caller.slowest_quiet, 2),
            "end of the block, s": round(end, 2),
            **{f"{what} at the start, idle": number for what, number in at_start.items()},
            **{f"{what} at the end, idle": number for what, number in at_end.items()},
        },
        samples=sampler.samples,
        violations=violations,
    )


async def _warm_up(directory: Path) -> None:
    """Create everything that exists once per process: modules, caches, and descriptors that stay as long as the loop."""
    for module in pkgutil.walk_packages(mcp_pool.__path__, "mcp_pool."):  # some are otherwise only loaded when needed
        importlib.import_module(module.name)
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


async def _let_happen(world: World, sampler: measure.Sampler, order: Order) -> None:
    """Run callers, faults and blocks for the given time, then wait until all of them have ended."""
    ends_at = anyio.current_time() + order.seconds

    def until() -> bool:
        return anyio.current_time() >= ends_at

    async def give_up(happening: anyio.CancelScope) -> None:
        await anyio.sleep_until(ends_at + bounds.PAST_BOUND)
        for what in (*world.caller.under_way.values(), *world.under_way.values()):
            world.violations.add("never ended", str(what))
        happening.cancel()

    async with anyio.create_task_group() as watching:
        watching.start_soon(sampler.run)
        async with anyio.create_task_group() as happening:
            watching.start_soon(give_up, happening.cancel_scope)
            happening.start_soon(run_callers, world.caller, world.targets, order.seed, until)
            happening.start_soon(inject_faults, world, FAULTS, f"{order.seed}-fault", until)
            happening.start_soon(opening, world, f"{order.seed}-block", until)
            happening.start_soon(
                running_programs, world, order.directory, order.backend, f"{order.seed}-program", until
            )
        watching.cancel_scope.cancel()
    if not world.faults or not world.caller.ends["answered"]:
        world.violations.add("nothing happened", "there was no fault, or no answer")
