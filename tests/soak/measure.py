"""What the run uses over time: memory, descriptors, tasks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import attrs

from mcp_pool import MCPPool
from soak.bounds import IDLE_INTERVAL, IDLE_LOOKS, MEMORY_GROWTH, MEMORY_GROWTH_BYTES, SAMPLE_INTERVAL

PROC = Path("/proc")
MEBIBYTE = 1024 * 1024


@attrs.frozen
class Sample:
    """One sample."""

    time: float
    """Seconds since the first."""
    memory: int
    """Resident memory of this process, in bytes."""
    descriptors: int
    tasks: int
    connected: int
    """Servers that are connected."""
    calls: int
    """Calls in flight."""
    lag: float
    """Seconds by which this sample was late: how long the event loop was blocked."""


@attrs.define
class Sampler:
    """Takes samples at regular intervals."""

    pool: MCPPool
    on_look: Callable[[], None]
    """Called with each sample."""
    samples: list[Sample] = attrs.Factory(list)

    async def run(self) -> None:
        """Take samples until cancelled."""
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
    return sum(1 for _ in (PROC / "self/fd").iterdir()) - 1  # without the descriptor of this listing


async def idle_usage() -> dict[str, int]:
    """What an idle pool uses: the medians of several samples, because the numbers fluctuate."""
    looks: list[dict[str, int]] = []
    for _ in range(IDLE_LOOKS):
        await anyio.sleep(IDLE_INTERVAL)
        looks.append({"tasks": len(anyio.get_running_tasks()), "descriptors": descriptors()})
    return {what: int(statistics.median(look[what] for look in looks)) for what in looks[0]}


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
        f" MiB in the last; {allowed / MEBIBYTE:.1f} MiB more would be fine"
    )
