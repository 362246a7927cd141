"""What befalls servers: their processes, their place in the pool, and calls that do harm; and who lets it happen.

What befalls wires stands in `faults_of_wires.py`. Each fault is a function that takes its time and leaves its server
able to come back; what is cut short by the end of the run is mended by `Host.mend` and `let_go_on`.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

import anyio
import attrs

from mcp_pool import ConnectError, MCPPool
from soak.bounds import CLOSE_TIMEOUT, FAULT_PAUSE, FAULTERS, MANAGE_BOUND, MAX_MESSAGE_SIZE, SILENCE_BOUND
from soak.callers import Call, Caller
from soak.fleet import Target
from soak.journal import Violations

LONGEST_STOP: Final = 6.0
"""Twice the time after which silence is found out: some servers that are stopped live to go on, and some do not."""
LOOK: Final = 0.2
"""Seconds between two looks at a process that is to be given up."""
LONGEST_OUTAGE: Final = 1.5
"""How long a server stays down that was killed."""


@attrs.define(eq=False)
class World:
    """What a fault can lay hands on."""

    pool: MCPPool
    targets: list[Target]
    caller: Caller
    violations: Violations
    counts: Counter[str] = attrs.Factory(Counter)
    """The faults so far, by their words."""
    blocks: Counter[str] = attrs.Factory(Counter)
    """The blocks of further pools so far, by how they were left."""
    stopped: set[int] = attrs.Factory(set)
    """The processes of servers over stdio that have been stopped by a signal."""

    def pid(self, target: Target) -> int | None:
        """The process of a connected server over stdio, which is a child of this program."""
        server = self.pool.snapshot().servers.get(target.server_id)
        return None if server is None else server.process_id

    def let_go_on(self, target: Target, pid: int) -> None:
        """Let a stopped process go on, unless the pool has ended it."""
        self.stopped.discard(pid)
        if self.pid(target) == pid:
            os.kill(pid, signal.SIGCONT)


Harm: TypeAlias = Callable[[World, Target, random.Random], Awaitable[None]]


@attrs.frozen
class Fault:
    """An entry of the table of faults."""

    words: str
    """What happened to the server, for the report."""
    weight: int
    """How often it happens, compared with others."""
    suits: Callable[[Target], bool]
    """Whether it can be done to a server."""
    harm: Harm


FAULTS: Final[list[Fault]] = []


def fault(words: str, weight: int, suits: Callable[[Target], bool]) -> Callable[[Harm], Harm]:
    """Enter a function into the table of faults."""

    def enter(harm: Harm) -> Harm:
        FAULTS.append(Fault(words, weight, suits, harm))
        return harm

    return enter


def on_stdio(target: Target) -> bool:
    """Whether a server has a process of its own."""
    return target.wire == "stdio"


def behind_url(target: Target) -> bool:
    """Whether a server is behind a URL."""
    return target.host is not None


def anywhere(_target: Target) -> bool:
    """Any server."""
    return True


async def signalled(world: World, target: Target, number: signal.Signals) -> None:
    """Send a signal to a server over stdio, if it is connected."""
    if (pid := world.pid(target)) is not None:
        os.kill(pid, number)


@fault("process killed (SIGKILL)", 6, on_stdio)
async def killed(world: World, target: Target, _chance: random.Random) -> None:
    """End it without warning."""
    await signalled(world, target, signal.SIGKILL)


@fault("process asked to end (SIGTERM)", 3, on_stdio)
async def terminated(world: World, target: Target, _chance: random.Random) -> None:
    """Ask it to end; some do not listen."""
    await signalled(world, target, signal.SIGTERM)


@fault("process stopped (SIGSTOP), and let go on", 6, on_stdio)
async def stopped(world: World, target: Target, chance: random.Random) -> None:
    """Let it be silent while its connection stands, for some time."""
    pid = world.pid(target)
    if pid is None:
        return
    world.stopped.add(pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        await anyio.sleep(LONGEST_STOP * chance.random())
    finally:
        world.let_go_on(target, pid)


@fault("process stopped (SIGSTOP) until it was found out", 3, on_stdio)
async def silenced(world: World, target: Target, _chance: random.Random) -> None:
    """Let it be silent for ever."""
    pid = world.pid(target)
    if pid is None:
        return
    world.stopped.add(pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        with anyio.move_on_after(SILENCE_BOUND) as bound:
            while world.pid(target) == pid:  # noqa: ASYNC110 - the pool tells of the server, not of its process
                await anyio.sleep(LOOK)
        if bound.cancelled_caught:
            world.violations.add("not found out", f"{target.server_id} was silent for {SILENCE_BOUND} s")
    finally:
        world.let_go_on(target, pid)


@fault("process behind a URL killed, and started again", 3, behind_url)
async def host_killed(_world: World, target: Target, chance: random.Random) -> None:
    """End all servers of a process without warning."""
    await target.behind.kill()
    await anyio.sleep(LONGEST_OUTAGE * chance.random())
    await target.behind.start()


@fault("process behind a URL stopped, and let go on", 4, behind_url)
async def host_stopped(_world: World, target: Target, chance: random.Random) -> None:
    """Let all servers of a process be silent for some time."""
    target.behind.stop()
    try:
        await anyio.sleep(LONGEST_STOP * chance.random())
    finally:
        target.behind.go_on()


@fault("process ended by a call", 4, lambda target: target.raw)
async def left(world: World, target: Target, chance: random.Random) -> None:
    """Let a tool end its own process in the middle of a call."""
    how = chance.choice(("crash", "kill"))
    await world.caller.call(target, Call(tool="leave", arguments={"how": how}, any_answer=True))
    if target.host is not None:
        await target.behind.kill()
        await target.behind.start()


@fault("standard output or input closed by the server", 4, on_stdio)
async def pipe_closed(world: World, target: Target, chance: random.Random) -> None:
    """Let it stop writing, or stop reading."""
    how = chance.choice(("close_stdout", "close_stdin"))
    await world.caller.call(target, Call(tool="leave", arguments={"how": how}, any_answer=True))


@fault("message longer than allowed", 3, lambda target: target.raw)
async def too_long(world: World, target: Target, _chance: random.Random) -> None:
    """Let it send what it may not."""
    await world.caller.call(target, Call(tool="huge", arguments={"bytes": 2 * MAX_MESSAGE_SIZE}))


@fault("flood of log messages", 3, anywhere)
async def flood_of_log(world: World, target: Target, _chance: random.Random) -> None:
    """Let it send more than callbacks can take."""
    await flooded(world, target, "log messages", 3000 if on_stdio(target) else 300)


@fault("flood of progress", 2, anywhere)
async def flood_of_progress(world: World, target: Target, _chance: random.Random) -> None:
    """Let it report more than the caller can take."""
    await flooded(world, target, "progress", 3000 if on_stdio(target) else 300)


@fault("flood on standard error", 2, on_stdio)
async def flood_of_errors(world: World, target: Target, _chance: random.Random) -> None:
    """Let it write more than anybody wants to keep."""
    await flooded(world, target, "standard error", 20_000)


@fault("flood of lines that are not JSON", 2, on_stdio)
async def flood_of_garbage(world: World, target: Target, _chance: random.Random) -> None:
    """Let it write what nobody understands."""
    await flooded(world, target, "garbage", 5000)


@fault("flood of requests from the server", 2, on_stdio)
async def flood_of_questions(world: World, target: Target, _chance: random.Random) -> None:
    """Let it ask more than may be asked at once."""
    await flooded(world, target, "questions", 200)


async def flooded(world: World, target: Target, what: str, count: int) -> None:
    """Let a server write one thing so often as fast as it can."""
    call = Call(tool="flood", arguments={"what": what, "count": count}, watched=what == "progress")
    await world.caller.call(target, call)


@fault("breakdown of a server in this program", 4, lambda target: target.marked is not None)
async def broken_down(_world: World, target: Target, _chance: random.Random) -> None:
    """Let its task end with an error."""
    if target.marked is not None:
        target.marked.breaking.set()


@fault("restart by hand", 3, anywhere)
async def restarted(world: World, target: Target, _chance: random.Random) -> None:
    """Ask for a new connection while the old one is in use."""
    # It may have been harmed from another side.
    with by_hand(world, f"restart of {target.server_id}"), suppress(ConnectError):
        await world.pool.server(target.server_id).restart()


@fault("removed, drained, and added again", 3, anywhere)
async def removed(world: World, target: Target, chance: random.Random) -> None:
    """Take it out of the pool, and put it back."""
    target.removals += 1
    try:
        with by_hand(world, f"removal of {target.server_id}"):
            await world.pool.disconnect(target.server_id, drain=chance.choice((0.0, 2 * CLOSE_TIMEOUT)))
    finally:
        world.pool.add(target.server_id, target.spec)
        target.removals += 1


@contextmanager
def by_hand(world: World, what: str) -> Generator[None]:
    """Bound something that is done by hand, and note when it does not end in time."""
    with anyio.move_on_after(MANAGE_BOUND) as scope:
        yield
    if scope.cancelled_caught:
        world.violations.add("took too long", f"{what} took more than {MANAGE_BOUND} s")


async def harming(world: World, faults: Sequence[Fault], seed: str) -> None:
    """Let one thing after another happen, for ever."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    harmed = [target for target in world.targets if not target.quiet]
    while True:
        await anyio.sleep(chance.expovariate(1 / FAULT_PAUSE))
        target = chance.choice([target for target in harmed if not is_busy(target, harmed)])
        fitting = [fault for fault in faults if fault.suits(target)]
        chosen = chance.choices(fitting, [fault.weight for fault in fitting])[0]
        target.busy = True
        try:
            await chosen.harm(world, target, chance)
            world.counts[chosen.words] += 1
        finally:
            target.busy = False


def is_busy(target: Target, targets: list[Target]) -> bool:
    """Whether a fault is being done to a server, or to the process that it shares with others."""
    return target.busy or any(other.busy and other.host is target.host for other in targets if target.host is not None)


async def trouble(world: World, faults: Sequence[Fault], seed: int) -> None:
    """Harm servers in these ways until cancelled."""
    async with anyio.create_task_group() as group:
        for number in range(FAULTERS):
            group.start_soon(harming, world, faults, f"{seed}-fault-{number}")
