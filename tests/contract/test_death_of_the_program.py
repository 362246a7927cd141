"""When a program is killed without unwinding, its servers' process groups are ended nevertheless."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from servers import is_alive, misbehaving, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = Path(__file__).parents[1] / "servers" / "host_program.py"
KINDS = [(), ("--stubborn",), ("--helper", "--stubborn")]
"""The options of the program's servers."""
BOUND = 30.0
"""Seconds for something promised within five: only a broken promise takes longer, however slow the machine is."""


def by_sigkill(host: subprocess.Popen[str]) -> None:
    host.kill()


def by_sigterm(host: subprocess.Popen[str]) -> None:
    host.terminate()


def by_sighup(host: subprocess.Popen[str]) -> None:
    host.send_signal(signal.SIGHUP)


def by_exit(host: subprocess.Popen[str]) -> None:
    host.send_signal(signal.SIGUSR1)  # its handler calls os._exit


def check_end(end: Callable[[subprocess.Popen[str]], None], backend: Any, pids: Path) -> None:
    """End a program on this backend that has a server of each kind, and wait for the end of the servers."""
    servers = [misbehaving(*options, "--pid-file", str(pids)) for options in KINDS]
    program = [sys.executable, str(HOST), json.dumps(backend), json.dumps(servers)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == "open\n"
            processes = [line["pid"] for line in read_lines(pids)]
            assert len(processes) == 4  # the helper, too
            assert all(map(is_alive, processes))
            end(host)
            deadline = time.monotonic() + BOUND
            while any(map(is_alive, processes)):
                assert time.monotonic() < deadline, "a process is left"
                time.sleep(0.02)
        finally:
            host.kill()
            for process in [line["pid"] for line in read_lines(pids)]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("end", [by_sigkill, by_sigterm, by_sighup, by_exit], ids=lambda end: end.__name__)
def test_no_server_process_is_left_when_the_program_is_killed(
    end: Callable[[subprocess.Popen[str]], None], tmp_path: Path
) -> None:
    check_end(end, ("asyncio", {}), tmp_path / "pids")


def test_no_server_process_is_left_on_any_backend(anyio_backend: Any, tmp_path: Path) -> None:
    check_end(by_sigkill, anyio_backend, tmp_path / "pids")
