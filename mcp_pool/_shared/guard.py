"""The boundary around user code: exceptions from callbacks, auth flows, log sinks and `__str__` are contained here.

User code can raise asyncio's `CancelledError` although nobody has cancelled the task that it runs in, for example by
awaiting a task that it has cancelled itself. Treated as a cancellation, this would silently end the code around it. In
a task of the pool, `current_effective_deadline()` tells whether it was cancelled. The caller's task may have been
cancelled natively, so there, user code must run in its own task.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

import anyio
from pydantic import ValidationError

_T = TypeVar("_T")

UNPRINTABLE: Final = "an error whose text cannot be shown"
"""Replaces the text of an exception whose `__str__` raises."""


@final
class ForeignCancellation(Exception):
    """User code ended with a cancellation that nobody had requested."""

    def __init__(self) -> None:
        super().__init__("it ended with a cancellation that nobody had requested")


@final
class UnprintableError(Exception):
    """Replaces an exception of user code that cannot be rendered."""


def cancellations() -> tuple[type[BaseException], ...]:
    """Return the backend's cancellation class in a tuple, which is empty outside of an event loop."""
    try:
        return (anyio.get_cancelled_exc_class(),)
    except RuntimeError:
        return ()


def user_errors() -> tuple[type[BaseException], ...]:
    """Return what synchronous user code may raise without ending the program. Nothing can really have cancelled it."""
    return (Exception, *cancellations())


async def contained(function: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
    """Call an async function of the user in the current task, which must be a task of the pool.

    Args:
        function: User code.
        arguments: Its arguments.

    Raises:
        ForeignCancellation: The function ended with a cancellation that nobody had requested.
        BaseException: Whatever else it raised.
    """
    try:
        return await function(*arguments)
    except anyio.get_cancelled_exc_class():
        if anyio.current_effective_deadline() == -math.inf:
            raise  # a scope around it was cancelled
    raise ForeignCancellation


async def contained_in_task(function: Callable[..., Awaitable[_T]], *arguments: object) -> _T:
    """Call an async function of the user in its own task, for use in a task that may be the caller's.

    Args:
        function: User code.
        arguments: Its arguments.

    Raises:
        ForeignCancellation: The function ended with a cancellation that nobody had requested.
        BaseException: Whatever else it raised; in a group unless it is an `Exception`.
    """
    results: list[_T] = []
    failure: Exception | None = None

    async def run() -> None:
        nonlocal failure
        try:
            results.append(await contained(function, *arguments))
        except Exception as error:  # noqa: BLE001  # raised below: the task group would wrap it
            failure = error

    async with anyio.create_task_group() as group:
        group.start_soon(run, name="mcp_pool: user code")
    if failure is not None:
        raise failure
    return results[0]


def text_of(error: BaseException) -> str:
    """Return the text of an error, or `UNPRINTABLE` if rendering it raises."""
    try:
        return str(error)
    except user_errors():  # a `__str__` is user code
        return UNPRINTABLE


def described(error: BaseException) -> str:
    """Return an error's class and text, for a message."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def words_of(error: BaseException | None) -> str:
    """Return a colon and the text of an error, for the end of a message; an empty string if it has no text.

    For a result that fails validation, the text says what is wrong without showing the result.
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
    """Return an error, or a replacement if rendering it raises: trio renders each exception that passes a nursery."""
    try:
        f"{error} {error!r}"  # only to see whether it raises
    except user_errors():
        return UnprintableError(described(error))
    return error
