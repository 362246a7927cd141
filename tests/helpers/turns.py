"""Calls in a fixed order, and the virtual time that they take."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.calls import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from anyio.abc import TaskGroup

TURNS = 100
"""More checkpoints than a call needs to settle, without any time passing: on asyncio, anyio's
`wait_all_tasks_blocked` lets some pass."""


async def in_turn(group: TaskGroup, function: Callable[..., Awaitable[object]], *arguments: Any) -> Outcome:
    """Start a call, and let it run until it waits, so that the order of calls is certain."""
    outcome = Outcome()
    group.start_soon(outcome.of, function, *arguments)
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()
    return outcome


@contextmanager
def taking(seconds: float) -> Generator[None]:
    """Check how much virtual time passes in the block."""
    start = anyio.current_time()
    yield
    assert anyio.current_time() - start == pytest.approx(seconds, abs=0.1)
