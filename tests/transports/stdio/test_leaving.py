"""However a program leaves its pool, no process of a server is left: each way to leave, with each kind of server."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from select import select
from subprocess import PIPE, Popen, TimeoutExpired
from typing import TYPE_CHECKING, Any

import pytest

from servers import is_alive, misbehaving, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = Path(__file__).parents[2] / "servers" / "leaving_host.py"
KINDS: dict[str, tuple[str, ...]] = {
    "polite": (),
    "with a helper": ("--helper",),
    "with a helper in a group of its own": ("--helper", "--own-group"),
    "ignores everything": ("--stubborn", "--helper"),
    "ignores the end of its input": ("--slow-exit", "1000"),
}
PROCESSES = 8
"""How many processes that are: servers and helpers."""
LONG = 200.0
"""A `close_timeout` that would fail the test if it were waited for."""
MOMENTS = 5
"""How many times in a row no processor time must have been used."""
PATIENCE = 60.0
"""Seconds of real time for what must happen soon, on however slow a machine."""


def run_host(backend: str, how: str, pids: Path, *, impolite: float) -> dict[str, Any]:
    """Run the host with a server of each kind, have it leave the pool, and return what it printed at last.

    Args:
        backend: What runs it.
        how: The way to leave.
        pids: Where the servers write down their processes.
        impolite: The `close_timeout` of servers that do not exit when their input ends.
    """
    ended = pids.with_name("ended")
    servers = {
        name: (
            *misbehaving(*options, "--pid-file", str(pids), "--note-end", str(ended)),
            LONG if "ignores" not in name else impolite,
        )
        for name, options in KINDS.items()
    }
    options = {"backend": backend, "how": how, "servers": servers, "pids": str(pids)}
    with Popen([sys.executable, str(HOST), json.dumps(options)], stdout=PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == "open\n"
            until_idle(host)
            if how == "exit":
                host.send_signal(signal.SIGTERM)
            elif how in ("interrupts", "exit while closing"):
                interrupt_until_it_closes(host)
                until(lambda: len(read_lines(ended)) == len(KINDS))  # so that all are being waited for
                until_idle(host)
                interrupt(host, signal.SIGINT if how == "interrupts" else signal.SIGTERM)
            output, _ = host.communicate(timeout=PATIENCE)
        finally:
            host.kill()
    told: dict[str, Any] = json.loads(output.splitlines()[-1])
    return told


def until_idle(host: Popen[str]) -> None:
    """Wait until a program has used no processor time for a moment.

    An interrupt that hits the pool's own code, and not the event loop while it waits, does not end the wait for servers
    that are being closed.
    """
    used, quiet = -1, 0
    while quiet < MOMENTS:
        *_, user, system = Path(f"/proc/{host.pid}/stat").read_text().rpartition(") ")[2].split()[:13]
        quiet = quiet + 1 if used == int(user) + int(system) else 0
        used = int(user) + int(system)
        time.sleep(0.05)  # the system counts in hundredths of a second


def interrupt_until_it_closes(host: Popen[str]) -> None:
    """Send SIGINT until it takes effect: Python drops what a handler raises in a finalizer, say."""
    assert host.stdout is not None
    for _ in range(5):
        host.send_signal(signal.SIGINT)
        if select([host.stdout], [], [], PATIENCE / 10)[0]:
            break
    assert host.stdout.readline() == "closing\n"


def interrupt(host: Popen[str], number: int) -> None:
    """Send a signal until it takes effect: uvloop loses what a handler raises while a descriptor becomes readable."""
    for _ in range(5):
        host.send_signal(number)
        with suppress(TimeoutExpired):
            host.wait(PATIENCE / 10)
            return


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pids(tmp_path: Path) -> Any:
    """Where servers write down their processes, which are killed at the end."""
    file = tmp_path / "pids"
    yield file
    for line in read_lines(file):
        with suppress(ProcessLookupError):
            os.kill(line["pid"], signal.SIGKILL)


@pytest.mark.parametrize(
    ("backend", "how", "impolite"),
    [
        # On asyncio, what ends the program takes away the waits for servers that are being closed.
        *(
            (backend, how, LONG)
            for backend in ("asyncio", "asyncio+uvloop")
            for how in ("interrupts", "exit while closing")
        ),
        *((backend, "return while closing", LONG) for backend in ("asyncio", "asyncio+uvloop")),
        # And where it cancels all tasks at once, closing begins with that.
        *((backend, how, 0.5) for backend in ("asyncio", "asyncio+uvloop") for how in ("exit", "return")),
        # On trio an interrupt waits for what is shielded, and another exception out of a handler ends all at once.
        *(("trio", how, 0.5) for how in ("interrupts", "exit while closing", "exit")),
    ],
)
def test_no_process_is_left_however_a_program_leaves_its_pool(
    backend: str, how: str, impolite: float, pids: Path
) -> None:
    told = run_host(backend, how, pids, impolite=impolite)
    assert len(read_lines(pids)) == PROCESSES
    assert told == {"running": [], "zombies": [], "log": []}


@pytest.mark.parametrize("how", ["abandon", "abandon while closing"])
@pytest.mark.parametrize("backend", ["asyncio", "asyncio+uvloop"])
def test_servers_of_a_loop_that_was_closed_without_cancelling_its_tasks_end_with_the_program(
    backend: str, how: str, pids: Path
) -> None:
    run_host(backend, how, pids, impolite=LONG)
    until(lambda: not any(is_alive(line["pid"]) for line in read_lines(pids)))
    assert len(read_lines(pids)) == PROCESSES
