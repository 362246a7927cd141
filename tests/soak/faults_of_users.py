"""What the program itself does wrong: its functions raise, or are cancelled natively, its log sinks raise, and it forks."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Final

import anyio
import sniffio
from loguru import logger

from soak.calls import Call
from soak.faults import Fault, Injection, World, anywhere
from soak.faults_by_hand import removed
from soak.fleet import Target

LONGEST_SINK: Final = 2.0
"""How long a log sink that raises stays at most."""
LONGEST_WORKER: Final = 3.0
"""How long a forked worker lives at most: longer than `CLOSE_TIMEOUT`, so that a server is removed while it lives."""
LOOK: Final = 0.1
"""Seconds between two checks whether a worker has exited."""
STEPS: Final = 5
"""How often a progress function is called."""


class Unprintable(Exception):
    """An error that cannot be shown or copied."""

    def __str__(self) -> str:
        raise RuntimeError("it has no text")

    def __repr__(self) -> str:
        raise RuntimeError("it has no representation")

    def __reduce__(self) -> str:
        raise RuntimeError("it cannot be copied")


async def raise_unprintable() -> None:
    """Raise an error that cannot be shown."""
    raise Unprintable


async def raise_group() -> None:
    """Raise a group of errors."""
    raise ExceptionGroup("several at once", [ValueError("one"), Unprintable()])


async def end_cancelled() -> None:
    """End with a cancellation that nobody asked the pool for; only asyncio has them."""
    if sniffio.current_async_library() != "asyncio":
        raise TimeoutError
    task = asyncio.create_task(asyncio.sleep(1000))
    task.cancel()
    await task


WRONG: Final = (raise_unprintable, raise_group, end_cancelled, anyio.sleep_forever)


async def disturbed_progress(world: World, target: Target, chance: random.Random) -> None:
    """Make a call whose progress function fails or hangs: it must be answered all the same."""
    call = Call(tool="work", arguments={"seconds": 0.1, "steps": STEPS}, seconds=0.1, on_progress=chance.choice(WRONG))
    await world.caller.call(target, call)


def raising(make: Callable[[], BaseException]) -> Injection:
    """Have every log line of the pool raise for some time."""

    async def disturb(_world: World, _target: Target, chance: random.Random) -> None:
        def write(_message: object) -> None:
            raise make()

        sink = logger.add(write, level=0, filter="mcp_pool", catch=False)
        await anyio.sleep(LONGEST_SINK * chance.random())
        logger.remove(sink)

    return disturb


async def forked(world: World, target: Target, chance: random.Random) -> None:
    """Fork a worker that lives for some time, remove the server meanwhile, and add it again."""
    worker = os.fork()
    if worker == 0:
        time.sleep(LONGEST_WORKER * chance.random())  # noqa: ASYNC251 - in another process
        os._exit(0)
    await removed(world, target, chance)
    while os.waitpid(worker, os.WNOHANG) == (0, 0):  # noqa: ASYNC110, ASYNC222 - it does not block
        await anyio.sleep(LOOK)


FAULTS: Final = (
    Fault("progress function that fails or hangs", 6, anywhere, disturbed_progress),
    Fault("log sink that raises", 2, anywhere, raising(lambda: OSError("no space left on device"))),
    Fault("log sink that raises what cannot be shown", 2, anywhere, raising(Unprintable)),
    Fault("worker forked", 3, anywhere, forked),
)
