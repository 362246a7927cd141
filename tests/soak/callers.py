"""The tasks that call, and what they call."""

from __future__ import annotations

import random
from collections.abc import Callable

import anyio

from soak.bounds import CALLERS, LONGEST_WORK, MAX_MESSAGE_SIZE, PAUSE
from soak.calls import Call, Caller
from soak.fleet import Target


def chosen(chance: random.Random, target: Target) -> Call:
    """Choose a call for a task. Weighted so that most calls are short and succeed unless something is wrong."""
    seconds = round(LONGEST_WORK * chance.random() ** 2, 3)
    working = {"seconds": seconds}
    choices: list[tuple[int, Callable[[], Call]]] = [
        (30, lambda: Call(tool="work")),
        (20, lambda: Call(tool="work", arguments=working, seconds=seconds)),
        (20, lambda: Call(tool="safe", arguments=working, seconds=seconds)),
        (8, lambda: Call(tool="work", arguments={**working, "steps": 5}, seconds=seconds, watched=True)),
        (8, lambda: Call(tool="work", arguments=working, seconds=seconds, cancel_after=chance.random())),
        (5, lambda: Call(tool="refuse")),
        (5, lambda: Call(tool="bulky", arguments={"size": chance.randrange(MAX_MESSAGE_SIZE // 4)})),
        (3, lambda: Call(tool="work", arguments=working, seconds=seconds, timeout=chance.random(), may_fail=True)),
        (1, lambda: Call(tool="mute", cancel_after=chance.random(), may_fail=True)),
    ]
    if not target.quiet:
        # Progress lets it take longer than `call_timeout`.
        long = 2.5 * LONGEST_WORK
        choices.append((2, lambda: Call(tool="work", arguments={"seconds": long, "steps": 5}, seconds=long)))
        choices.append((2, lambda: Call(tool="mute", may_fail=True)))
    weights = [weight for weight, _ in choices]
    return chance.choices(choices, weights)[0][1]()


async def calling(caller: Caller, targets: list[Target], seed: str, until: Callable[[], bool]) -> None:
    """Call one server after another, until it is time to stop."""
    chance = random.Random(seed)
    while not until():
        target = chance.choice(targets)
        await caller.call(target, chosen(chance, target))
        await anyio.sleep(chance.expovariate(1 / PAUSE))


async def run_callers(caller: Caller, targets: list[Target], seed: int, until: Callable[[], bool]) -> None:
    """Run many tasks that call, and return when the last of them has ended."""
    async with anyio.create_task_group() as group:
        for number in range(CALLERS):
            group.start_soon(calling, caller, targets, f"{seed}-{number}", until)
