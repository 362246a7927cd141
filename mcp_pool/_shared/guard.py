"""The boundary around user code: what a callback, a flow, a sink or a `__str__` raises ends here, and harms no other.

A native `task.cancel()` of asyncio can reach the pool from user code: a function that awaits a cancelled task of its
own raises `CancelledError`, although nobody has cancelled the task that it runs in. Taken for a cancellation, it would
end whatever runs around it without a word. In a task of the pool's own, `current_effective_deadline()` tells the two
apart; in the caller's, which may have been cancelled natively, only a task of its own can.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

import anyio
from pydantic import ValidationError

_T = TypeVar("_T")

UNPRINTABLE: Final = "an error whose text cannot be shown"
"""Stands for the text of an exception whose `__str__` raises."""


@final
class ForeignCancellation(Exception):
    """User code ended with a cancellation that nobody had requested."""

    def __init__(self) -> None:
        super().__init__("it ended with a cancellation that nobody had requested")


@final
class UnprintableError(Exception):
    """Stands for an exception of user code that cannot be rendered."""


def cancellations() -> tuple[type[BaseException], ...]:
    """Return the class of the backend's cancellation; nothing outside of an event loop, where nothing is cancelled."""
    try:
        return (anyio.get_cancelled_exc_class(),)
    except RuntimeError:
        return ()


def user_errors() -> tuple[type[BaseException], ...]:
    """Return what a synchronous piece of user code may raise without ending the program: there is none to cancel it."""
    return (Exception, *cancellations())


async def contained(function: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
    """Call an async function of the user's in the current task, which must be one of the pool's own.

    Args:
        function: User code.
        arguments: Its arguments.

    Raises:
        ForeignCancellation: It ended with a cancellation that nobody had requested.
        BaseException: Whatever else it raised.
    """
    try:
        return await function(*arguments)
    except anyio.get_cancelled_exc_class():
        if anyio.current_effective_deadline() == -math.inf:
            raise  # a scope around it was cancelled
    raise ForeignCancellation


async def contained_in_task(function: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
    """Call an async function of the user's in a task of its own, where the current one may be the caller's.

    Args:
        function: User code.
        arguments: Its arguments.

    Raises:
        ForeignCancellation: It ended with a cancellation that nobody had requested.
        BaseException: Whatever else it raised, within a group where it is no `Exception`.
    """
    results: list[_T] = []
    failure: Exception | None = None

    async def run() -> None:
        nonlocal failure
        try:
            results.append(await contained(function, *arguments))
        except Exception as error:  # noqa: BLE001  # kept from the group, which would wrap it
            failure = error

    async with anyio.create_task_group() as group:
        group.start_soon(run, name="mcp_pool: user code")
    if failure is not None:
        raise failure
    return results[0]


def text_of(error: BaseException) -> str:
    """Return the text of an error; a stand-in when rendering it raises."""
    try:
        return str(error)
    except user_errors():  # a `__str__` is user code
        return UNPRINTABLE


def described(error: BaseException) -> str:
    """Return an error's class and text, for a message."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def words_of(error: BaseException | None) -> str:
    """Return what an error says itself, for the end of a message: a colon and its text, or nothing.

    Of a result that does not fit, it says what is wrong, and does not show the result.
    """
    if error is None:
        return ""
    if isinstance(error, ValidationError):
        details = error.errors(include_input=False, include_url=False, include_context=False)
        text = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details[:5])
    else:
        text = text_of(error).strip().rstrip(".")
    return text and f": {text}"


def printable(error: BaseException) -> BaseException:
    """Return an error; a stand-in when rendering it raises, which trio does to whatever passes a nursery."""
    try:
        f"{error} {error!r}"  # what is of interest is whether it raises
    except user_errors():
        return UnprintableError(described(error))
    return error
