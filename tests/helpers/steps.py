"""Cancellation at the n-th await point: counts the suspensions of an operation and of the pool's tasks that execute it."""

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio
import attrs

from mcp_pool._shared.guard import contained_in_task
from mcp_pool.connection import connection
from mcp_pool.connection.connect import Connector
from mcp_pool.supervision.child import Child

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    import pytest

MOST = 500
"""The number of suspensions after which an operation counts as endless."""


@attrs.define
class Steps:
    """Does something at the n-th suspension, counted from 0. After the last `stop` it no longer counts."""

    at: int
    action: Callable[[], object]
    count: int = 0

    @property
    def reached(self) -> bool:
        """Whether there was an n-th suspension."""
        return self.count > self.at

    def step(self) -> None:
        """Count one suspension. Called right before a task is suspended."""
        self.count += 1
        if self.count == self.at + 1:
            self.action()


@coroutine
def counted(steps: list[Steps], inner: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine, and notify all counters of each of its suspensions."""
    send: Callable[[Any], Any] = inner.send
    value: Any = None
    while True:
        try:
            trap = send(value)
        except StopIteration as end:
            return end.value
        for counter in steps:
            counter.step()
        try:
            value = yield trap
            send = inner.send
        except BaseException as error:
            value = error
            send = inner.throw


def count_children(monkeypatch: pytest.MonkeyPatch) -> list[Steps]:
    """Return a list of counters, which count each suspension of the tasks that open, hold and close connections."""
    steps: list[Steps] = []
    run, hold = Child.run, Connector.run

    async def counted_run(child: Child) -> None:
        await counted(steps, run(child))

    async def counted_connection(connector: Connector) -> None:
        await counted(steps, hold(connector))

    monkeypatch.setattr(Child, "run", counted_run)
    monkeypatch.setattr(Connector, "run", counted_connection)
    return steps


def count_calls_in_process(monkeypatch: pytest.MonkeyPatch) -> list[Steps]:
    """Return a list of counters, which count each suspension of the tasks that run calls of in-process servers."""
    steps: list[Steps] = []

    async def counted_in_task(send: Callable[..., Awaitable[object]], *arguments: object) -> object:
        async def call() -> object:
            return await send(*arguments)

        return await contained_in_task(lambda: counted(steps, call()))

    monkeypatch.setattr(connection, "contained_in_task", counted_in_task)
    return steps


async def cancel_at(
    number: int,
    steps: list[Steps],
    operation: Callable[[], Awaitable[object]],
    cancel: Callable[[], object] | None = None,
) -> bool:
    """Run an operation, cancel it at the n-th suspension, and return whether there was one before it ended."""
    scope = anyio.CancelScope()
    counter = Steps(number, cancel or scope.cancel)

    async def call() -> None:
        await operation()

    steps.append(counter)
    try:
        with scope:
            await counted([counter], call())
    finally:
        steps.remove(counter)
    return counter.reached


async def at_each_step(
    steps: list[Steps],
    operation: Callable[[], Awaitable[object]],
    *,
    before: Callable[[], Awaitable[object]] | None = None,
    after: Callable[[], Awaitable[object]],
    cancel: Callable[[], object] | None = None,
) -> int:
    """Cancel an operation at its first suspension, then at its second, until it ends before it can be cancelled.

    Args:
        steps: From `count_children` or `count_calls_in_process`.
        operation: Started again for each suspension.
        before: Awaited before each run.
        after: Awaited after each run.
        cancel: Cancels the operation; by default, by the scope around it.

    Returns:
        How many suspensions there were.
    """
    for number in range(MOST):
        if before is not None:
            await before()
        reached = await cancel_at(number, steps, operation, cancel)
        await after()
        if not reached:
            return number
    raise AssertionError(f"more than {MOST} suspensions")
