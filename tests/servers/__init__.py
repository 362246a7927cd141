"""Servers for the tests: one over stdio that misbehaves on demand, and some that live in the test's own process."""

import json
import os
import py_compile
import sys
from functools import cache
from pathlib import Path
from typing import Any

MISBEHAVING = Path(__file__).with_name("misbehaving.py")


@cache
def compiled(script: Path) -> str:
    """The same script compiled: a third of the time of its thousands of starts would go into compiling it."""
    return str(py_compile.compile(str(script), doraise=True))


def misbehaving(*options: str) -> tuple[str, list[str]]:
    """The command and the arguments that start `misbehaving.py`; `-I -S` spares the start-up of site-packages."""
    return sys.executable, ["-I", "-S", compiled(MISBEHAVING), *options]


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What `misbehaving.py` wrote to its `--ledger` or `--pid-file` so far, over all its starts, oldest first."""
    file = Path(path)
    # A line that crosses a page of the file may be seen when half of it is there.
    text = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        # The state follows the name, which stands in parentheses and may contain anything.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self/stat").exists()
    return state not in ("Z", "X")
