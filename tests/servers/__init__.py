"""Servers for the tests: programs that misbehave on demand, and in-process servers."""

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
    """The same script, compiled: compiling takes a third of its start, and the tests start it thousands of times."""
    return str(py_compile.compile(str(script), doraise=True))


def misbehaving(*options: str) -> tuple[str, list[str]]:
    """The command and the arguments that start `misbehaving.py`; `-I -S` spares the start-up of site-packages."""
    return sys.executable, ["-I", "-S", compiled(MISBEHAVING), *options]


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records in a `--ledger` or `--pid-file` of `misbehaving.py`, over all its starts, oldest first."""
    file = Path(path)
    # A line that crosses a page of the file may be visible when it is half written.
    text = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def is_alive(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        # The state follows the name, which is in parentheses and may contain anything.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self/stat").exists()
    return state not in ("Z", "X")
