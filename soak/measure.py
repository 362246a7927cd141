"""What the run takes of the system: memory, descriptors, tasks, processes; and what of it is left."""

from __future__ import annotations

import gc
import os
import re
import statistics
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import attrs

from mcp_pool import MCPPool
from soak.bounds import LEFTOVER_BOUND, MEMORY_GROWTH, MEMORY_GROWTH_BYTES, SAMPLE_INTERVAL, STANDING_LOOKS

PROC = Path("/proc")
MEBIBYTE = 1024 * 1024


@attrs.frozen
class Sample:
    """One look."""

    time: float
    """Seconds since the first."""
    memory: int
    """Resident memory of this process, in bytes."""
    descriptors: int
    tasks: int
    connected: int
    """Servers that are connected."""
    calls: int
    """Calls under way."""
    lag: float
    """Seconds by which this look came too late: how long the event loop was held up."""


@attrs.define
class Sampler:
    """Looks at regular intervals."""

    pool: MCPPool
    on_look: Callable[[], None]
    """Called at each look."""
    samples: list[Sample] = attrs.Factory(list)

    async def run(self) -> None:
        """Look for ever."""
        start = due = anyio.current_time()
        while True:
            now = anyio.current_time()
            snapshot = self.pool.snapshot()
            self.samples.append(
                Sample(
                    time=round(now - start, 2),
                    memory=resident(),
                    descriptors=descriptors(),
                    tasks=len(anyio.get_running_tasks()),
                    connected=snapshot.connected,
                    calls=snapshot.calls_in_flight,
                    lag=round(max(0.0, now - due), 3),
                )
            )
            self.on_look()
            due = now + SAMPLE_INTERVAL
            await anyio.sleep_until(due)


def descriptors() -> int:
    """How many descriptors are open."""
    return sum(1 for _ in (PROC / "self/fd").iterdir()) - 1  # without that of this listing


async def standing() -> int:
    """How many tasks there are while nothing happens: the median of some looks, as some come and go all the time."""
    looks: list[int] = []
    for _ in range(STANDING_LOOKS):
        await anyio.sleep(SAMPLE_INTERVAL)
        looks.append(len(anyio.get_running_tasks()))
    return int(statistics.median(looks))


def resident() -> int:
    """The resident memory of this process, in bytes."""
    _, _, rest = (PROC / "self/status").read_text().partition("VmRSS:")
    return int(rest.split()[0]) * 1024


def quarters(samples: Sequence[Sample]) -> list[float]:
    """The medians of resident memory in the four quarters of a run, in bytes."""
    size = max(1, len(samples) // 4)
    return [statistics.median(s.memory for s in samples[n * size : (n + 1) * size] or samples[-1:]) for n in range(4)]


def growth(samples: Sequence[Sample]) -> str | None:
    """Say what is wrong with the memory over a run, if anything is."""
    _, second, _, last = quarters(samples)
    allowed = max(MEMORY_GROWTH * second, MEMORY_GROWTH_BYTES)
    if last - second <= allowed:
        return None
    return (
        f"the median of resident memory was {second / MEBIBYTE:.1f} MiB in the second quarter and {last / MEBIBYTE:.1f}"
        f" MiB in the last; {allowed / MEBIBYTE:.1f} MiB more would do"
    )


def marked() -> str:
    """Mark all processes to come: `TERM` is among the few variables that every server gets and hands on."""
    os.environ["TERM"] = mark = f"dumb-{uuid.uuid4().hex}"
    return mark


def present(mark: str) -> Counter[str]:
    """What there is now: this loop's tasks, this process's descriptors and children, who bears the mark, our objects.

    Numbers are left out: each task, socket and process has one of its own.
    """
    found = Counter(f"task {re.sub(r'[0-9]+', 'N', task.name or '')}" for task in anyio.get_running_tasks())
    for link in (PROC / "self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found[f"descriptor {re.sub(r'[0-9]+', 'N', str(link.readlink()))}"] += 1
    for directory in PROC.glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # gone meanwhile, or somebody else's
            parent = int((directory / "stat").read_text(errors="replace").rpartition(") ")[2].split()[1])
            if int(directory.name) == os.getpid():
                continue
            if parent == os.getpid() or mark.encode() in (directory / "environ").read_bytes():
                command = (directory / "cmdline").read_text(errors="replace").replace("\0", " ")
                found[f"process {re.sub(r'[0-9]+', 'N', command) or 'not waited for'}"] += 1
    return found


def objects() -> Counter[str]:
    """How many objects of the package's classes there are, by class."""
    for _ in range(3):  # what finalizers let go is found by the next round
        gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    # The module of a class may be anything.
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).partition(".")[0] == "mcp_pool")


async def left(before: Counter[str], mark: str) -> Counter[str]:
    """What is there now and was not before, after some patience."""
    with anyio.move_on_after(LEFTOVER_BOUND):
        while present(mark) - before:  # noqa: ASYNC110 - no event tells of processes that are not our children
            await anyio.sleep(0.1)
    return present(mark) - before
