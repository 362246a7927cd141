"""Keeps our ends of the pipes to servers and guardian out of forked children of the program.

A forked worker that held them would keep a server's standard input open after the pool closed it, and would hide the
death of the program from the guardian. So each of these descriptors is registered here, and after `os.fork` the child
replaces it with `/dev/null`. It is not closed there: the child may hold objects that close the same number later, when
it belongs to another file.
"""

from __future__ import annotations

import _thread
import os
import sys
from typing import Final

fork_barrier: Final = _thread.RLock()
"""While a thread holds this, no other thread can fork. Hold it around `Popen` too: a child forked in the middle of it
would inherit the pipe on which `Popen` waits for the exec, and `Popen` would not return before that child exits.

Reentrant, because a signal handler may fork while its own thread holds the lock."""

_covered: Final = set[int]()
"""The descriptors to replace in a forked child."""


def open_pipe() -> tuple[int, int]:
    """Open a pipe and return its read end and its write end; forked children get neither of them.

    Close each end with `close_end`.

    Raises:
        OSError: Too many files are open.
    """
    with fork_barrier:
        ends = os.pipe()
        _covered.update(ends)
    return ends


def close_end(descriptor: int) -> None:
    """Close one end of a pipe from `open_pipe`.

    Raises:
        OSError: Somebody else closed the descriptor.
    """
    with fork_barrier:
        _covered.discard(descriptor)
        os.close(descriptor)


def _cover() -> None:
    """Replace each registered descriptor with `/dev/null`. Runs in a new child, which has a single thread."""
    if not _covered:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no descriptor is free: close one of ours, whose number no other thread can take
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


if sys.platform != "win32":  # pragma: no branch  # Windows has no fork
    os.register_at_fork(
        before=fork_barrier.acquire, after_in_parent=fork_barrier.release, after_in_child=_after_in_child
    )
