"""Exception groups and chains of causes, taken apart in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from mcp_pool._shared.guard import cancellations


def plain(error: BaseException) -> BaseException:
    """Return one exception in the place of a group: the first leaf that is not a cancellation, or else the first one.

    Args:
        error: What came out of a task group, perhaps groups within groups.

    Returns:
        `error` itself when it is not a group.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = [plain(leaf) for leaf in group.exceptions]
    return next((leaf for leaf in leaves if not isinstance(leaf, cancellations())), leaves[0])


def cause_of(error: BaseException) -> BaseException | None:
    """Return what an exception was raised from or, without that, what was being handled then.

    Whether there is one is a matter of `None`: an exception of the user's may be false, or refuse to be either.
    """
    return error.__context__ if error.__cause__ is None else error.__cause__


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, each once, the outermost first."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = cause_of(error)


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error that is kept, and of its causes: their frames hold whole connections."""
    for link in chain(error):
        with suppress(Exception):  # a frozen exception of the user's refuses
            link.__traceback__ = None
