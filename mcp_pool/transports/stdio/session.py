"""A server's session, where the system shows sessions in `/proc`.

A server leads a session of its own, whose id is the server's process id. Helpers belong to it even if they have made a
process group of their own, unless they called `setsid`.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

PROC: Final = "/proc"
"""Where the system lists its processes."""


TICK: Final = 0.01
"""Seconds to which the system rounds start times down."""


def groups_in_session(session: int) -> set[int]:
    """Return the process groups in a session; none where the system does not list its processes."""
    groups = set[int]()
    for pid in _members(session):
        with suppress(OSError):  # gone meanwhile
            groups.add(os.getpgid(pid))
    return groups


def is_still(session: int, started: float | None, ended: float) -> bool:
    """Tell whether a session still belongs to a leader that others have reaped, so that its id may have been reused.

    A session id can be reused only after the last member has gone. So one member that was started while the leader was
    running proves that it was not, and another process with the id of the leader proves that it was.

    Args:
        session: The id of the session, which was the process id of its leader.
        started: When the leader was started, as `start_time` tells.
        ended: When its end was noticed, as `now` tells.
    """
    if started is None or is_another(session, started):
        return False
    times = [start_time(pid) for pid in _members(session)]
    return any(time is not None and started <= time <= ended - TICK for time in times)


def is_another(pid: int, started: float | None) -> bool:
    """Tell whether a process is certain to be another than the one with the same id that was started at `started`."""
    found = start_time(pid)
    return found is not None and started is not None and found != started


def start_time(pid: int) -> float | None:
    """Return when a process was started, in seconds since the system was; None if it is gone or nothing shows it."""
    try:
        # The name stands in parentheses and may contain anything; the time is the 22nd field of all.
        fields = Path(PROC, str(pid), "stat").read_bytes().rpartition(b") ")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return None


def now() -> float:
    """Return the time on the clock of `start_time`."""
    if sys.platform != "linux":  # pragma: no cover  # nothing is compared with it there
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _members(session: int) -> list[int]:
    """Return the processes of a session, zombies included."""
    try:
        names = [entry.name for entry in Path(PROC).iterdir()]
    except OSError:
        return []
    return [pid for pid in map(int, filter(str.isdecimal, names)) if _session(pid) == session]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)  # a tenth of the cost of reading a file
    except OSError:  # gone meanwhile, or hidden
        return None
