"""What tests see of processes, and foreign processes that they start."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
LAST_PID = PROC / "sys/kernel/ns_last_pid"

needs_to_choose_ids = pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="only root chooses process ids")


def stat(pid: int) -> list[str] | None:
    """The state, parent, group, session, … of a process; None if it is gone or a zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields


def process_ids() -> list[int]:
    """The ids of all processes, zombies included."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


def members(*ids: int) -> set[int]:
    """The processes whose group or session is among these."""
    return {pid for pid in process_ids() if (fields := stat(pid)) is not None and {*map(int, fields[2:4])} & {*ids}}


def children(pid: int) -> set[int]:
    """The running children of a process."""
    return {each for each in process_ids() if (fields := stat(each)) is not None and int(fields[1]) == pid}


@contextmanager
def sleeper(*, new_session: bool = True) -> Iterator[Popen[bytes]]:
    """A process that does nothing."""
    with Popen(["sleep", "1000"], start_new_session=new_session) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def stranger(pid: int) -> Iterator[Popen[bytes]]:
    """A foreign process with this id, in a session and a group of its own."""
    for _ in range(100):
        newest = LAST_PID.read_text()
        LAST_PID.write_text(str(pid - 1))
        with sleeper() as process:
            LAST_PID.write_text(newest)  # at once: other tests look at processes meanwhile
            if process.pid == pid:
                yield process
                return
    pytest.skip("other programs start too many processes")
