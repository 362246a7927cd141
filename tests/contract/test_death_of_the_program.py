"""When a program is killed without unwinding, its servers' process groups are ended nevertheless."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.common import eventually
from servers import is_alive, misbehaving, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = Path(__file__).parents[1] / "servers" / "host_program.py"
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


@pytest.mark.parametrize("end", [by_sigkill, by_sigterm, by_sighup, by_exit], ids=lambda end: end.__name__)
@pytest.mark.parametrize("options", [(), ("--stubborn",), ("--helper", "--stubborn")], ids=" ".join)
async def test_no_server_process_is_left_when_the_program_is_killed(
    end: Callable[[subprocess.Popen[str]], None], options: tuple[str, ...], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    command, arguments = misbehaving(*options, "--pid-file", str(pids))
    program = [sys.executable, str(HOST), command, *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as host:  # noqa: ASYNC220 - it will be killed
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == "open\n"
            processes = [line["pid"] for line in read_lines(pids)]
            assert len(processes) == 2 * (2 if "--helper" in options else 1)
            assert all(map(is_alive, processes))
            end(host)
            await eventually(lambda: not any(map(is_alive, processes)), within=BOUND)
        finally:
            host.kill()
            for process in [line["pid"] for line in read_lines(pids)]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
