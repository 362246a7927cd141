"""What servers do to themselves and to the pool when they are called: they exit, or send too much."""

from __future__ import annotations

import random
from typing import Final

from soak.bounds import MAX_MESSAGE_SIZE, PROOF_TIMEOUT
from soak.calls import Call
from soak.faults import Fault, Injection, World, anywhere, on_stdio
from soak.fleet import Target


def on_raw(target: Target) -> bool:
    """Whether a server is one of our own that misbehaves, not the SDK's."""
    return target.raw


def leaving(*ways: str) -> Injection:
    """Make a tool end its own process, or close a pipe, during a call."""

    async def leave(world: World, target: Target, chance: random.Random) -> None:
        await world.caller.call(target, Call(tool="leave", arguments={"how": chance.choice(ways)}, any_answer=True))
        if target.host is not None:
            await target.host.process.restart()

    return leave


async def unreadable(world: World, target: Target, chance: random.Random) -> None:
    """Make it answer by a line that cannot be read; the call must not wait for another answer."""
    call = Call(tool="spoil", arguments={"how": chance.randrange(100)}, timeout=PROOF_TIMEOUT)
    await world.caller.call(target, call)


async def too_long(world: World, target: Target, _chance: random.Random) -> None:
    """Make it return a message that is too long."""
    await world.caller.call(target, Call(tool="huge", arguments={"bytes": 2 * MAX_MESSAGE_SIZE}))


def flooding(what: str, count: int, *, elsewhere: int = 0) -> Injection:
    """Make it write one thing as fast as it can, `count` times over stdio, `elsewhere` times over other transports."""

    async def flood(world: World, target: Target, _chance: random.Random) -> None:
        arguments = {"what": what, "count": count if on_stdio(target) else elsewhere}
        await world.caller.call(target, Call(tool="flood", arguments=arguments, watched=what == "progress"))

    return flood


FAULTS: Final = (
    Fault("process ended by a call", 4, on_raw, leaving("crash", "kill")),
    Fault("standard output or input closed by the server", 4, on_stdio, leaving("close_stdout", "close_stdin")),
    Fault("answer that cannot be read", 4, on_stdio, unreadable),
    Fault("message longer than allowed", 3, on_raw, too_long),
    Fault("flood of log messages", 3, anywhere, flooding("log messages", 3000, elsewhere=300)),
    Fault("flood of progress", 2, anywhere, flooding("progress", 3000, elsewhere=300)),
    Fault("flood on standard error", 2, on_stdio, flooding("standard error", 20_000)),
    Fault("flood of lines that are not JSON", 2, on_stdio, flooding("garbage", 5000)),
    Fault("flood of requests from the server", 2, on_stdio, flooding("questions", 200)),
)
