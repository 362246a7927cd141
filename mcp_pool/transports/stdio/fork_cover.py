"""What a forked child of the program must not hold: our ends of the pipes of servers and guardian.

A forked worker that held them would keep a server's input open after the pool closed it, and would hide the exit of the
program from the guardian. So each such descriptor is registered here, and `os.fork` covers it with `/dev/null` in the
child. It is never closed there: the child may hold objects that close the number later, when it is another's.
"""

from __future__ import annotations

import _thread
import os
import sys
from typing import Final

fork_barrier: Final = _thread.RLock()
"""While this is held, no other thread forks. Hold it around `Popen` too: a child forked in the middle of it would
inherit the pipe on which `Popen` waits for the exec, and `Popen` would not return before that child exits.

Reentrant, for a signal handler of the program may fork while its own thread holds it."""

_covered: Final = set[int]()
"""The descriptors to cover."""


def open_pipe() -> tuple[int, int]:
    """Open a pipe and return its reading and its writing end, both covered in forked children until `close_end`.

    Raises:
        OSError: There are too many open files.
    """
    with fork_barrier:
        ends = os.pipe()
        _covered.update(ends)
    return ends


def close_end(descriptor: int) -> None:
    """Close one end of a pipe from `open_pipe`.

    Raises:
        OSError: It was closed behind our back.
    """
    with fork_barrier:
        _covered.discard(descriptor)
        os.close(descriptor)


def _cover() -> None:
    """Put `/dev/null` in the place of each registered descriptor. Runs in a new child, which has one thread only."""
    if not _covered:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no number is free: give up one of ours, which nobody else can take in between
        os.close(next(iter(_covered)))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in _covered - {null}:
        os.dup2(null, descriptor, inheritable=False)
    if null not in _covered:
        os.close(null)
    _covered.clear()


def _after_in_child() -> None:
    try:
        _cover()
    finally:
        fork_barrier.release()


if sys.platform != "win32":  # pragma: no branch  # there is no fork there
    os.register_at_fork(
        before=fork_barrier.acquire, after_in_parent=fork_barrier.release, after_in_child=_after_in_child
    )
