"""The boundary around user code. Native cancellations exist on asyncio only: those tests run their own loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from helpers.foreign import cancelled_inside
from mcp_pool._shared.guard import (
    UNPRINTABLE,
    ForeignCancellation,
    cancellations,
    contained,
    contained_in_task,
    described,
    text_of,
    user_errors,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

each_guard = pytest.mark.parametrize("guard", [contained, contained_in_task])
Guard = "Callable[..., Awaitable[Any]]"


def run(function: Callable[[], Awaitable[None]]) -> None:
    """Run an async function on asyncio."""
    anyio.run(function, backend="asyncio")


async def add(first: int, second: int) -> int:
    return first + second


async def fail(error: BaseException) -> None:
    raise error


@each_guard
async def test_the_result_of_a_function_is_returned(guard: Guard) -> None:
    assert await guard(add, 1, 2) == 3


@each_guard
async def test_the_exception_of_a_function_is_raised_unchanged(guard: Guard) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError) as caught:
        await guard(fail, error)
    assert caught.value is error


@each_guard
async def test_the_cancellation_of_a_surrounding_scope_is_a_cancellation(guard: Guard) -> None:
    entered = False

    async def wait() -> None:
        nonlocal entered
        entered = True
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await guard(wait)
    assert entered
    assert scope.cancelled_caught


@each_guard
async def test_a_surrounding_deadline_applies(guard: Guard) -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await guard(anyio.sleep_forever)


@each_guard
def test_a_cancellation_that_nobody_requested_is_an_error(guard: Guard) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            with pytest.raises(ForeignCancellation, match="a cancellation that nobody had requested"):
                await guard(cancelled_inside)
            await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught

    run(main)


@each_guard
def test_a_cancellation_that_nobody_requested_under_a_cancelled_shield_is_an_error(guard: Guard) -> None:
    """A scope outside of the shield is cancelled, which does not explain a cancellation within."""

    async def main() -> None:
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True), pytest.raises(ForeignCancellation):
                await guard(cancelled_inside)
        assert not outer.cancelled_caught

    run(main)


def test_a_natively_cancelled_task_ends_cancelled_while_the_function_runs_in_its_own_task() -> None:
    async def main() -> None:
        ends, entered = list[str](), anyio.Event()

        async def wait() -> None:
            entered.set()
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        task = asyncio.ensure_future(contained_in_task(wait))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert ends == ["cancelled"]

    run(main)


def test_nothing_is_cancelled_outside_of_an_event_loop() -> None:
    assert cancellations() == ()
    assert user_errors() == (Exception,)


async def test_user_code_may_raise_the_cancellation_of_the_loop() -> None:
    assert cancellations() == (anyio.get_cancelled_exc_class(),)
    assert user_errors() == (Exception, anyio.get_cancelled_exc_class())


class WithoutText(Exception):
    def __str__(self) -> str:
        raise self.args[0]


def test_the_text_of_an_error_is_its_text() -> None:
    assert text_of(ValueError("wrong")) == "wrong"
    assert described(ValueError("wrong")) == "ValueError: wrong"


def test_the_text_of_an_error_that_cannot_be_rendered_is_replaced() -> None:
    assert text_of(WithoutText(KeyError())) == UNPRINTABLE
    assert described(WithoutText(KeyError())) == f"WithoutText: {UNPRINTABLE}"


def test_the_text_of_an_error_whose_rendering_ends_with_a_cancellation_is_replaced() -> None:
    async def main() -> None:
        assert text_of(WithoutText(asyncio.CancelledError())) == UNPRINTABLE

    run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()], ids=["interrupt", "exit"])
def test_exceptions_that_end_the_program_pass_from_rendering(error: BaseException) -> None:
    with pytest.raises(type(error)):
        text_of(WithoutText(error))
