"""When a process exits, and with which status."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from subprocess import Popen

import anyio


async def exit_status(process: Popen[bytes]) -> int:
    """Wait until a process exits; return its exit code, or minus the number of the signal that killed it.

    On Linux the process is not reaped. Until it is, neither its process id nor its group id can be reused, so
    signalling them is safe. Linux needs no thread for this either.
    """
    descriptor = _descriptor(process.pid)
    if descriptor is None:
        # A limiter of its own: if the program's worker threads are all busy, exits must still be noticed.
        limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True, limiter=limiter)
    try:
        await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return _status(process)


def _descriptor(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process exits; None where the system has none."""
    if sys.platform == "linux":  # pragma: no branch  # coverage is taken on Linux
        # Old kernels lack it, a sandbox may forbid it, and the program may have no descriptor left.
        with suppress(AttributeError, OSError):
            return os.pidfd_open(pid)
    return None


def _status(process: Popen[bytes]) -> int:
    """Look up the status of a process that has exited."""
    if sys.platform == "linux":  # pragma: no branch  # coverage is taken on Linux
        # Where this program ignores SIGCHLD, the kernel keeps no status.
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return process.wait()
