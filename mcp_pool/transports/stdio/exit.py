"""The end of a process: when, and with which status."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from subprocess import Popen

import anyio


async def exit_status(process: Popen[bytes]) -> int:
    """Wait for the end of a process and return its exit code, or minus the number of the signal that killed it.

    On Linux the process is not reaped: until then neither its number nor that of its group can become another's, and
    signalling them is safe. No thread is needed there either.
    """
    descriptor = _descriptor(process.pid)
    if descriptor is None:
        # A limiter of its own: whoever uses up the threads of the program must not keep an exit from being seen.
        limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True, limiter=limiter)
    try:
        await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    return _status(process)


def _descriptor(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, where there are such."""
    if sys.platform == "linux":  # pragma: no branch  # coverage is taken on Linux
        # An old system has none, a sandbox may forbid them, and descriptors may have run out.
        with suppress(AttributeError, OSError):
            return os.pidfd_open(pid)
    return None


def _status(process: Popen[bytes]) -> int:
    """Look at the status of a process that has ended."""
    if sys.platform == "linux":  # pragma: no branch  # coverage is taken on Linux
        # Where this program ignores SIGCHLD, the kernel keeps no status.
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    return process.wait()
