"""Exception groups and chains of causes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from mcp_pool._shared.guard import cancellations


def plain(error: BaseException) -> BaseException:
    """Return one exception of a group: the first that is not a cancellation, or else the first one.

    Args:
        error: An exception, or a group of exceptions or groups.

    Returns:
        `error` itself when it is not a group.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = [plain(leaf) for leaf in group.exceptions]
    return next((leaf for leaf in leaves if not isinstance(leaf, cancellations())), leaves[0])


def ends_program(error: BaseException | None) -> bool:
    """Return whether an error, or one in a group, is neither an `Exception` nor a cancellation: `SystemExit`, say."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(ends_program, cast("BaseExceptionGroup[BaseException]", error).exceptions))
    return error is not None and not isinstance(error, (Exception, *cancellations()))


def cause_of(error: BaseException) -> BaseException | None:
    """Return the explicit cause of an exception or, if there is none, its context.

    This compares with None because the truth value of a user's exception may be false, or may raise.
    """
    return error.__context__ if error.__cause__ is None else error.__cause__


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, each of them once, outermost first."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = cause_of(error)


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error that is stored, and of its causes: their frames keep connections alive."""
    for link in chain(error):
        with suppress(Exception):  # a user's exception may be frozen
            link.__traceback__ = None
