"""When a process exits, and with which status.

The status is looked up, never awaited from another task: that task may be gone when the status is needed.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Final, final

import anyio
import attrs

FIRST_PAUSE: Final = 0.005
"""Seconds between the first two looks at a process, where the system does not notify of an exit."""
LONGEST_PAUSE: Final = 1.0
"""Seconds that the pause grows to. The end of its output usually tells of an exit much earlier."""


@final
@attrs.frozen
class Exit:
    """The end of a process."""

    status: int | None
    """The exit code, or minus the number of the signal that killed it. None: unknown, because the program ignores
    SIGCHLD, or other code in it has reaped the process."""

    def __str__(self) -> str:
        """Say how it ended, as a phrase that follows the name of the server."""
        if self.status is None:
            return "exited with an unknown status"
        if self.status < 0:
            return f"was killed by {_signal_name(-self.status)}"
        return f"exited with status {self.status}"


def look_up_exit(pid: int) -> Exit | None:
    """Look up whether a child process has exited, without waiting.

    The process is not reaped, except where the system offers no other way to look. Until it is, neither its process id
    nor its group id can be reused, so signalling them is safe.

    Returns:
        How it ended; None while it runs.
    """
    try:
        if hasattr(os, "waitid"):  # pragma: no branch  # macOS has it since Python 3.13
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return None
            return Exit(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
        reaped, status = os.waitpid(pid, os.WNOHANG)  # pragma: no cover  # see above
        return Exit(os.waitstatus_to_exitcode(status)) if reaped else None  # pragma: no cover
    except ChildProcessError:
        return Exit(None)


async def wait_for_exit(pid: int) -> Exit:
    """Wait until a child process has exited, and return how. It is not reaped, as with `look_up_exit`."""
    descriptor = _descriptor(pid)
    if descriptor is not None:
        try:
            await anyio.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return look_up_exit(pid) or Exit(None)  # a process that runs is another with the same id
    pause = FIRST_PAUSE
    while (found := look_up_exit(pid)) is None:
        await anyio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return found


def reap(group: int) -> bool:
    """Reap the children of this program in a process group that have exited.

    Besides the server these are orphans of the group, if the program is a child subreaper or process 1.

    Returns:
        Whether the program has children in this group that are still running.
    """
    reaped = group
    try:
        while reaped:
            reaped, _ = os.waitpid(-group, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _descriptor(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process exits; None where the system has none."""
    if sys.platform == "linux":  # pragma: no branch  # coverage is taken on Linux
        # Old kernels lack it, a sandbox may forbid it, and the program may have no descriptor left.
        with suppress(AttributeError, OSError):
            return os.pidfd_open(pid)
    return None


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:  # real-time signals have no name
        return f"signal {number}"
