"""What is left behind: tasks, descriptors, processes, and objects of the package."""

from __future__ import annotations

import gc
import os
import re
import signal
import uuid
from collections import Counter
from contextlib import suppress
from typing import Final

import anyio

from soak.bounds import LEFTOVER_BOUND
from soak.measure import PROC

MARK: Final = "TERM"
"""A variable that marks all processes of a run: one of the few that every server gets and passes on."""


def new_mark() -> str:
    """A unique value of the variable."""
    return f"dumb-{uuid.uuid4().hex}"


def processes(mark: str) -> dict[int, str]:
    """The commands of other processes that have the mark or are children of this one, by process id."""
    found: dict[int, str] = {}
    ours, borne = os.getpid(), mark.encode()
    for directory in PROC.glob("[0-9]*"):
        with suppress(
            FileNotFoundError, ProcessLookupError, PermissionError
        ):  # it has exited, or belongs to another user
            parent = int((directory / "stat").read_text(errors="replace").rpartition(") ")[2].split()[1])
            if int(directory.name) != ours and (parent == ours or borne in (directory / "environ").read_bytes()):
                command = (directory / "cmdline").read_text(errors="replace").replace("\0", " ")
                found[int(directory.name)] = command or "not waited for"
    return found


def kill(mark: str) -> None:
    """Kill all other processes with the mark, after a run that could not do so itself."""
    for pid in processes(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def present() -> Counter[str]:
    """What exists now: this loop's tasks, this process's descriptors and children, and processes with the mark."""
    found = Counter(f"task {_kind(task.name or '')}" for task in anyio.get_running_tasks())
    for link in (PROC / "self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[f"descriptor {_kind(str(link.readlink()))}"] += 1
    found.update(f"process {_kind(command)}" for command in processes(os.environ[MARK]).values())
    return found


def _kind(name: str) -> str:
    """A name without its numbers, which are different for each task, socket and process."""
    return re.sub(r"[0-9]+", "N", name)


async def left(before: Counter[str]) -> Counter[str]:
    """What exists now and did not before, after some time to end."""
    with anyio.move_on_after(LEFTOVER_BOUND):
        while present() - before:  # noqa: ASYNC110 - there are no events for processes that are not our children
            await anyio.sleep(0.1)
    return present() - before


def objects() -> Counter[str]:
    """How many objects of the package's classes there are, by class."""
    for _ in range(3):  # objects that finalizers release are found in the next round
        gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    # The module of a class may be anything.
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).partition(".")[0] == "mcp_pool")
