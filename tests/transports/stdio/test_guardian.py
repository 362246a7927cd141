"""The guardian: servers end when the program that started them is killed without unwinding."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

import pytest

import mcp_pool
from helpers.processes import PROC, children, members, needs_to_choose_ids, sleeper, stat, stranger
from mcp_pool.transports.stdio import fork_cover
from mcp_pool.transports.stdio import guardian as guardian_module
from mcp_pool.transports.stdio.guardian import Guardian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = Path(__file__).parents[2] / "servers" / "guardian_host.py"
PROMISED = 5.0
"""Seconds after the death of the program in which the groups must be gone."""
ROOM = 15.0
"""Seconds for everything else."""
BASH = shutil.which("bash")

shells = pytest.mark.parametrize(
    "shell",
    [
        pytest.param("/bin/sh", id="sh"),
        pytest.param(BASH, id="bash", marks=pytest.mark.skipif(BASH is None, reason="no bash here")),
        pytest.param("/nowhere/sh", id="python"),
    ],
)


def arguments(pid: int) -> list[str]:
    """The command line of a process; empty once it is gone."""
    found = list[str]()
    while not found and stat(pid) is not None:  # it is also empty in the middle of an exec
        with suppress(FileNotFoundError, ProcessLookupError):
            found = (PROC / str(pid) / "cmdline").read_text().split("\0")[:-1]
    return found


def descriptors(process: str) -> set[str]:
    """The numbers of the open descriptors of a process."""
    return {link.name for link in (PROC / process / "fd").iterdir()}


def target(descriptor: int, process: str = "self") -> str:
    """The file that a descriptor refers to."""
    return str((PROC / process / "fd" / str(descriptor)).readlink())


def until(condition: Callable[[], Any], *, within: float = ROOM) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.005)


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Host:
    """A running `guardian_host.py`."""

    def __init__(self, process: Popen[bytes], facts: dict[str, Any]) -> None:
        self.process = process
        self.groups: list[int] = facts["groups"]
        self.removed: list[int] = facts["removed"]
        self.guardian: int = facts["guardian"]
        self.warnings: list[str] = facts["warnings"]
        self.others: list[int] = []

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, command: str) -> dict[str, Any]:
        """Run a command in the host, and note what it started so that it is ended."""
        assert self.process.stdout is not None
        self.say(command)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "group" in answer:
            self.groups.append(answer["group"])
        if answer.get("guardian") is not None:
            self.others.append(self.guardian)
            self.guardian = answer["guardian"]
        if "worker" in answer:
            self.others.append(answer["worker"])
        return answer

    def die(self, how: str) -> None:
        """Kill the host without unwinding, and wait for its exit."""
        if how == "os._exit":
            self.say("exit")
        else:
            self.process.send_signal(signal.Signals[how])
        self.process.wait(ROOM)

    def are_gone(self) -> bool:
        return not members(*self.groups)


@contextmanager
def host(**options: Any) -> Iterator[Host]:
    """Run a host, and end everything that it started."""
    # Not `-S`: attrs is in the site-packages.
    process = Popen([sys.executable, str(HOST), json.dumps(options)], stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    facts = json.loads(process.stdout.readline())
    host = Host(process, facts)
    try:
        assert len(members(*host.groups, *host.removed)) >= len(host.groups) + len(host.removed)
        yield host
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()
        kill(*(pid for pid in {host.guardian, *host.others} if any("guardian" in each for each in arguments(pid))))
        kill(*members(*host.groups, *host.removed))


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def guardian(warnings: list[str]) -> Iterator[Guardian]:
    """A guardian of this process; afterwards no descriptor and no child is left."""
    before = descriptors("self"), children(os.getpid())
    guardian = Guardian(warnings.append)
    yield guardian
    process_id = guardian.process_id
    guardian.close()
    assert process_id is None or not (PROC / str(process_id)).exists()
    assert (descriptors("self"), children(os.getpid())) == before
    assert fork_cover._covered == set()


def process_id(guardian: Guardian) -> int:
    assert guardian.process_id is not None
    return guardian.process_id


# When the program dies.


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "os._exit"])
def test_all_servers_end_however_the_program_dies(how: str) -> None:
    with host(servers=["plain", "stubborn", "wrapped", "leaderless", "grouped", "grouped-polite"]) as it:
        it.die(how)
        until(it.are_gone, within=PROMISED)
        until(lambda: stat(it.guardian) is None)


@shells
def test_each_kind_of_guardian_ends_the_servers(shell: str) -> None:
    with host(servers=["plain", "stubborn", "grouped", "grouped-polite"], removed=2, shell=shell) as it:
        assert ("python" in arguments(it.guardian)[0]) == (shell == "/nowhere/sh")
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)
        until(lambda: stat(it.guardian) is None)
        assert len(members(*it.removed)) == 2


@pytest.mark.parametrize("option", ["ignore_sigchld", "block_signals"])
def test_the_signal_settings_of_the_program_make_no_difference(option: str) -> None:
    with host(servers=["stubborn"], **{option: True}) as it:
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)


def test_a_server_gets_sigterm_first(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with host(servers=[f"polite:{said}"]) as it:
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)
        assert said.read_text() == "TERM\n"


def test_a_group_that_was_removed_is_never_signalled() -> None:
    with host(servers=["plain", "stubborn"], removed=3) as it:
        it.die("SIGKILL")
        until(lambda: stat(it.guardian) is None)
        assert it.are_gone()
        assert len(members(*it.removed)) == 3


def test_pools_in_several_threads_each_have_a_guardian() -> None:
    with host(servers=["plain", "stubborn", "wrapped", "plain"], threads=True) as it:
        guardians = children(it.process.pid) - set(it.groups)
        assert len(guardians) == 4
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)
        until(lambda: not any(map(stat, guardians)))


# When the program is still running.


@pytest.mark.parametrize("how", ["fork", "fork-and-unwind"])
def test_a_forked_worker_neither_hides_the_death_of_the_program_nor_causes_it(how: str) -> None:
    with host(servers=["plain", "stubborn"]) as it:
        answer = it.ask(how)
        assert answer["covered"] == os.devnull
        assert children(answer["worker"]) == set()
        assert stat(it.guardian) is not None
        assert not it.are_gone()
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)
        assert stat(answer["worker"]) is not None


@shells
def test_a_program_that_closes_all_its_descriptors_does_not_count_as_dead(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with host(servers=["plain", "stubborn", "plain"], ignore_sigchld=True, shell=shell) as it:
        ended, *rest = it.groups
        it.ask(f"close-all {file}")
        kill(ended)
        until_it_has_looked(it.guardian)
        assert stat(it.guardian) is not None
        assert members(*rest) >= set(rest)
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)
        until(lambda: stat(it.guardian) is None)


def test_a_descriptor_that_has_been_reused_is_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with host(servers=["plain", "stubborn"]) as it:
        first = it.guardian
        it.ask(f"close-all {file}")
        answer = it.ask(f"remove {it.groups[0]}")
        assert file.read_bytes() == b""
        assert answer["guardian"] != first
        assert stat(first) is None
        it.die("SIGKILL")
        until(lambda: not members(it.groups[1]), within=PROMISED)
        assert members(it.groups[0])


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "TSTP", "TTIN", "TTOU", "USR1", "USR2", "ALRM"])
def test_the_guardian_ignores_the_signals_of_terminals_and_service_managers(name: str, guardian: Guardian) -> None:
    with sleeper() as process:
        guardian.add(process.pid)
        pid = process_id(guardian)
        ignored = 1 << (signal.Signals[f"SIG{name}"] - 1)
        until(lambda: int(status(pid)["SigIgn"], 16) & ignored)
        os.kill(pid, signal.Signals[f"SIG{name}"])
        found = stat(pid)
        assert found is not None
        assert found[0] != "T"


def test_the_guardian_still_works_after_those_signals() -> None:
    with host(servers=["stubborn"]) as it:
        for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTSTP", "SIGTERM"):
            until(lambda: int(status(it.guardian)["SigIgn"], 16) & 1 << (signal.SIGTERM - 1))
            os.kill(it.guardian, signal.Signals[name])
        it.die("SIGTERM")
        with suppress(ProcessLookupError):
            os.kill(it.guardian, signal.SIGTERM)  # while it is ending the groups
        until(it.are_gone, within=PROMISED)


def status(pid: int) -> dict[str, str]:
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def looks(pid: int) -> int:
    """How often a process has gone to sleep."""
    return int(status(pid)["voluntary_ctxt_switches"])


def until_it_has_looked(guardian: int) -> None:
    """Wait until a guardian has checked parent and groups a few times after the end of its input."""
    if "python" in arguments(guardian)[0]:
        before = looks(guardian)
        until(lambda: looks(guardian) > before + 2)
    else:
        waits = set[int]()
        until(lambda: waits.update(children(guardian)) or len(waits) > 2)


@needs_to_choose_ids
@shells
def test_a_group_id_that_has_been_reused_is_not_signalled(shell: str, tmp_path: Path) -> None:
    with host(servers=["plain", "stubborn"], ignore_sigchld=True, shell=shell) as it:
        ended = it.groups.pop(0)
        it.ask(f"close-all {tmp_path / 'file'}")
        kill(ended)
        until_it_has_looked(it.guardian)
        with stranger(ended) as process:
            it.die("SIGKILL")
            until(it.are_gone, within=PROMISED)
            until(lambda: stat(it.guardian) is None)
            assert process.poll() is None


# The guardian process itself.


@shells
def test_the_guardian_shares_nothing_with_the_program_but_its_pipe(shell: str) -> None:
    with host(inheritable=True, shell=shell) as it:
        directory = PROC / str(it.guardian)
        until(lambda: descriptors(str(it.guardian)) == {"0", "1", "2"})  # Python opens the modules that it imports
        assert target(0, str(it.guardian)).startswith("pipe:")
        assert target(1, str(it.guardian)) == target(2, str(it.guardian)) == os.devnull
        assert (directory / "environ").read_bytes() == b""
        assert (directory / "cwd").readlink() == Path("/")
        assert os.getsid(it.guardian) == it.guardian


def test_a_guardian_that_was_killed_is_replaced_by_one_that_knows_all_groups() -> None:
    with host(servers=["plain", "stubborn"], removed=1) as it:
        first = it.guardian
        kill(first)
        until(lambda: stat(first) is None)
        answer = it.ask("add wrapped")
        assert answer["guardian"] != first
        assert answer["warnings"] == []
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)
        until(lambda: stat(it.guardian) is None)
        assert members(*it.removed)


def test_a_guardian_that_is_stuck_is_replaced_by_one_that_knows_all_groups() -> None:
    with host(servers=["plain", "stubborn"]) as it:
        first = it.guardian
        os.kill(first, signal.SIGSTOP)
        answer = it.ask("fill")
        assert answer["guardian"] != first
        assert answer["lines"] > 500
        assert answer["warnings"] == []
        assert not (PROC / str(first)).exists()
        it.die("SIGKILL")
        until(it.are_gone, within=PROMISED)


def test_a_new_guardian_gets_the_groups_as_arguments(guardian: Guardian, warnings: list[str]) -> None:
    with sleeper() as one, sleeper() as two, sleeper() as three:
        for process in (one, two):
            guardian.add(process.pid)
        first = guardian._process
        assert first is not None
        first.kill()
        until(lambda: stat(first.pid) is None)
        guardian.remove(one.pid)
        guardian.add(three.pid)
        assert guardian._process is not first
        assert arguments(process_id(guardian))[-1:] == [str(two.pid)]
        assert warnings == []


def test_the_guardian_is_started_with_the_first_group_and_ended_by_close(guardian: Guardian) -> None:
    assert guardian.process_id is None
    with sleeper() as process:
        guardian.add(process.pid)
        first = process_id(guardian)
        guardian.add(process.pid)
        guardian.remove(process.pid)
        guardian.remove(process.pid)
        assert process_id(guardian) == first
        guardian.close()
        guardian.close()
        assert guardian.process_id is None
        assert not (PROC / str(first)).exists()
        assert process.poll() is None


def test_a_guardian_whose_pipe_the_program_closed_is_replaced(guardian: Guardian) -> None:
    guardian.add(1_000_000_000)
    first = process_id(guardian)
    fork_cover.close_end(guardian._pipe)
    guardian.add(1_000_000_001)
    assert process_id(guardian) != first
    assert not (PROC / str(first)).exists()


def test_in_a_forked_child_the_guardian_does_nothing(guardian: Guardian) -> None:
    guardian.add(1_000_000_000)
    first, owner = process_id(guardian), guardian._owner
    guardian._owner = os.getppid()
    guardian.add(1_000_000_001)
    guardian.remove(1_000_000_000)
    guardian.close()
    assert guardian._groups == {1_000_000_000}
    assert stat(first) is not None
    guardian._owner = owner


def test_a_guardian_that_died_is_not_replaced_if_there_are_no_groups_left(guardian: Guardian) -> None:
    with sleeper() as process:
        guardian.add(process.pid)
        first = guardian._process
        assert first is not None
        first.kill()
        until(lambda: stat(first.pid) is None)
        guardian.remove(process.pid)
        assert guardian.process_id is None


def test_a_guardian_can_be_started_with_thousands_of_groups(guardian: Guardian) -> None:
    guardian._groups.update(range(1_000_000_000, 1_000_020_000))
    with sleeper() as process:
        guardian.add(process.pid)
        first = process_id(guardian)
        assert len(arguments(first)) > 20_000
        guardian.remove(process.pid)
        assert process_id(guardian) == first


@pytest.mark.parametrize("group", [-5, 0, 1])
def test_a_group_id_that_would_reach_other_processes_is_refused(group: int, guardian: Guardian) -> None:
    with pytest.raises(ValueError, match="not the process group of a server"):
        guardian.add(group)


# Where it cannot run.


def test_without_a_sleep_command_the_guardian_runs_in_python(
    guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    guardian.add(1_000_000_000)
    assert arguments(process_id(guardian))[1:2] == ["-I"]


def test_a_frozen_program_without_a_shell_gets_one_warning(
    guardian: Guardian, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian_module, "SHELL", "/nowhere/sh")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    for group in (1_000_000_000, 1_000_000_001):
        guardian.add(group)
    guardian.remove(1_000_000_000)
    (warning,) = warnings
    assert warning == (
        "No guardian process: there is no /bin/sh with a sleep command, and no Python interpreter, to run it. "
        "If this program is killed, its stdio servers may keep running."
    )
    monkeypatch.undo()
    guardian.remove(1_000_000_001)
    guardian.add(1_000_000_002)
    assert guardian.process_id is not None


def test_a_guardian_that_cannot_be_started_causes_a_warning_and_is_tried_again(
    guardian: Guardian, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(guardian_module, "Popen", refuse)
    guardian.add(1_000_000_000)
    assert guardian.process_id is None
    assert ["cannot be started: [Errno 11]" in warning for warning in warnings] == [True]
    monkeypatch.undo()
    guardian.add(1_000_000_001)
    assert arguments(process_id(guardian))[-2:] == ["1000000000", "1000000001"]


def test_a_guardian_that_survives_sigkill_is_abandoned(guardian: Guardian, monkeypatch: pytest.MonkeyPatch) -> None:
    guardian.add(1_000_000_000)
    process = guardian._process
    assert process is not None
    with monkeypatch.context() as patch:
        patch.setattr(guardian_module, "REAP_TIMEOUT", 0.0)
        patch.setattr(process, "kill", lambda: None)  # as if it were in an uninterruptible sleep
        guardian.close()
    process.kill()
    process.wait()


# Descriptors in forked children.


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """The descriptors of three pipes."""
    ends = [end for _ in range(3) for end in fork_cover.open_pipe()]
    yield ends
    for end in ends:
        fork_cover.close_end(end)


def test_a_forked_child_has_dev_null_in_place_of_each_pipe(pipes: list[int]) -> None:
    before = descriptors("self")
    fork_cover.fork_barrier.acquire()
    fork_cover._after_in_child()
    assert set(map(target, pipes)) == {os.devnull}
    assert not any(map(os.get_inheritable, pipes))
    assert descriptors("self") == before
    assert fork_cover._covered == set()
    fork_cover._cover()


def test_a_forked_child_without_a_free_descriptor_has_dev_null_too(pipes: list[int]) -> None:
    before = descriptors("self")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = list[int]()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(pipes) + 1, limits[1]))
        with suppress(OSError):
            while True:
                filler.append(os.open(os.devnull, os.O_RDWR))
        fork_cover._cover()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in filler:
            os.close(descriptor)
    assert set(map(target, pipes)) == {os.devnull}
    assert not any(map(os.get_inheritable, pipes))
    assert descriptors("self") == before


def test_a_closed_descriptor_is_not_covered() -> None:
    reader, writer = fork_cover.open_pipe()
    fork_cover.close_end(reader)
    fork_cover.close_end(writer)
    file = os.open(HOST, os.O_RDONLY)  # reuses one of the numbers
    try:
        assert file in {reader, writer}
        fork_cover._cover()
        assert target(file) == str(HOST)
    finally:
        os.close(file)


def test_a_fork_while_a_pipe_is_opened_waits_for_its_registration() -> None:
    """With forks in one thread and new pipes in another, no child ever holds a pipe."""
    code = (HOST.parent / "guardian_forks.py").read_text()
    with Popen([sys.executable, "-c", code, str(Path(mcp_pool.__file__).parents[1])], stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"0 leaks\n"
