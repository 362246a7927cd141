"""The boundary around user code, on an event loop of the test's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from mcp_pool._shared.guard import ForeignCancellation, cancellations, contained, contained_in_task, user_errors

if TYPE_CHECKING:
    from collections.abc import Callable


async def cancelled_inside() -> None:
    """End with a cancellation that nobody requested."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("call", [contained, contained_in_task])
def test_a_native_cancellation_out_of_user_code_becomes_an_error(call: Callable[..., Any]) -> None:
    with pytest.raises(ForeignCancellation, match="nobody had requested"):
        anyio.run(call, cancelled_inside)


@pytest.mark.parametrize("call", [contained, contained_in_task])
async def test_a_scope_that_is_cancelled_cancels_user_code(call: Callable[..., Any]) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await call(anyio.sleep, 1)
    assert scope.cancelled_caught


@pytest.mark.parametrize("call", [contained, contained_in_task])
async def test_what_user_code_returns_and_raises_comes_through(call: Callable[..., Any]) -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def fail() -> None:
        raise ValueError("mine")

    assert await call(double, 2) == 4
    with pytest.raises(ValueError, match="mine"):
        await call(fail)


def test_outside_of_an_event_loop_nothing_is_cancelled() -> None:
    assert cancellations() == ()
    assert user_errors() == (Exception,)
