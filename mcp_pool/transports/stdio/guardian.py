"""The guardian: a tiny process that ends the servers when the program itself is killed without unwinding.

It reads from a pipe whose only writer is the program, so it sees the end of input when the program dies, whatever the
cause. End of input does not prove that the program died, because a program may close all its descriptors and go on; so
the guardian then waits until it has another parent process. Both states are shell programs of their own: a shell sets
`$PPID` only when it starts, and starting a new one is the only way to read it again without `/proc` or `ps`.

It must never signal a group that may belong to somebody else: a group id can be reused as soon as the leader has been
reaped and the last member is gone. So `remove` is called after the group was sent SIGKILL, before the leader is reaped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Final, final

import attrs

from mcp_pool.transports.stdio.fork_cover import close_end, fork_barrier, open_pipe

SHELL: Final = "/bin/sh"
"""Runs the guardian: it starts ten times as fast as Python and takes a hundredth of the memory."""
REAP_TIMEOUT: Final = 1.0
"""Seconds for the guardian to exit after SIGKILL. It usually takes a thousandth of that."""

# Signals ignored here stay ignored in whatever the shell runs or execs, `sleep` included. SIGTERM is one of them
# because a service manager sends it to every process of a service when it stops the program.
LISTEN: Final = """\
# mcp_pool guardian: ends the process groups of stdio servers if the program that started them is killed
trap '' HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2 ALRM
sh=$0 outlive=$1 parent=$2 sleep=$3
shift 3
groups=" $* "
while read -r line; do
  group=${line#?}
  case $line in
    +*) groups="$groups$group " ;;
    -*) case $groups in *" $group "*) groups="${groups%% "$group" *} ${groups#* "$group" }" ;; esac ;;
  esac
done
exec "$sh" -c "$outlive" "$sh" "$outlive" "$parent" "$sleep" .1 $groups
"""
"""Keeps the list of groups up to date until the end of input."""

# A group that was found empty is dropped from the list: from then on its id may belong to somebody else. The group id
# of a server is also the id of its session, in which helpers may have made groups of their own. These are added where
# the system has /proc; only once, because a shell takes a second for some thousand processes.
OUTLIVE: Final = """\
# mcp_pool guardian: the program has closed its pipe; once it is gone, its process groups are ended
sh=$0 outlive=$1 parent=$2 sleep=$3 pause=$4
shift 4
groups=$*
add_groups_of_sessions() {
  for file in /proc/[0-9]*/stat; do
    read -r line < "$file" || continue
    set -- ${line##*) }
    case " $groups " in
      *" $3 "*) ;;
      *" $4 "*) groups="$groups $3" ;;
    esac
  done
}
keep_existing() {
  existing=
  for group in $groups; do kill -s 0 -- "-$group" && existing="$existing $group"; done
  groups=$existing
  [ "$groups" ] || exit 0
}
[ "$pause" = 1 ] || add_groups_of_sessions
keep_existing
if [ "$PPID" = "$parent" ]; then
  "$sleep" "$pause" || "$sleep" 1 || exit 1
  exec "$sh" -c "$outlive" "$sh" "$outlive" "$parent" "$sleep" 1 $groups
fi
for group in $groups; do kill -s TERM -- "-$group"; done
for second in 1 2; do
  "$sleep" 1
  keep_existing
done
for group in $groups; do kill -s KILL -- "-$group"; done
"""
"""Waits until it has another parent process, then ends the groups. The first pause is short, because a dying process
closes its pipes a moment before its children get a new parent. Not every `sleep` accepts fractions."""

IN_PYTHON: Final = """\
# mcp_pool guardian: ends the process groups of stdio servers if the program that started them is killed
import os, signal, sys, time

def groups_of_sessions():
    found = set()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return found
    for pid in pids:
        try:
            if os.getsid(pid) in groups:
                found.add(os.getpgid(pid))
        except OSError:
            pass
    return found

def existing():
    found = set()
    for group in groups:
        try:
            os.killpg(group, 0)
            found.add(group)
        except OSError:
            pass
    return found

def send(number):
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            pass

for name in "HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2 ALRM".split():
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_IGN)
parent, *groups = map(int, sys.argv[1:])
groups = set(groups)
for line in sys.stdin.buffer:
    (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
groups |= groups_of_sessions()
pause = 0.1
while (groups := existing()) and os.getppid() == parent:
    time.sleep(pause)
    pause = 1.0
send(signal.SIGTERM)
deadline = time.monotonic() + 2.0
while (groups := existing()) and time.monotonic() < deadline:
    time.sleep(0.1)
send(signal.SIGKILL)
"""
"""The same in Python, for systems without a shell."""


@final
@attrs.define(eq=False)
class Guardian:
    """The process groups of a pool's servers, and the process that ends them if this program is killed.

    It is started with the first group. Nothing here blocks for longer than the milliseconds that starting or killing a
    process takes. In a forked child of the program every method does nothing: the servers are the parent's.
    """

    warn: Callable[[str], None]
    """Called at most once, with a message, if no guardian can be started."""
    _groups: set[int] = attrs.field(factory=set[int], init=False)
    """The groups that are guarded."""
    _process: Popen[bytes] | None = attrs.field(default=None, init=False)
    """The guardian process; None while there is none."""
    _pipe: int = attrs.field(default=-1, init=False)
    """Our end of its pipe."""
    _identity: tuple[int, int] = attrs.field(default=(0, 0), init=False)
    """Device and inode of the pipe, to recognise it: its number may have become another file's."""
    _owner: int = attrs.field(factory=os.getpid, init=False)
    _has_warned: bool = attrs.field(default=False, init=False)

    @property
    def process_id(self) -> int | None:
        """The process id of the guardian, None while there is none."""
        return None if self._process is None else self._process.pid

    def add(self, group: int) -> None:
        """Guard a process group. Call this right after the process was started, before any await.

        Raises:
            ValueError: No server can have this group id; signalling it would reach other processes.
        """
        if group <= 1:
            raise ValueError(f"{group} is not the process group of a server")
        if os.getpid() == self._owner and group not in self._groups:
            self._groups.add(group)
            self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Stop guarding a process group that has ended; a group that is not guarded is ignored.

        Call this when the group has been sent SIGKILL and its leader has exited, but before the leader is reaped.
        """
        if os.getpid() == self._owner and group in self._groups:
            self._groups.remove(group)
            self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the guardian process and forget all groups. May be called more than once."""
        if os.getpid() == self._owner:
            self._groups.clear()
            self._end()

    def _tell(self, line: str) -> None:
        """Write a line to the guardian process; replace it if it has exited or is stuck."""
        if self._write(line):
            return
        # End it first: a stuck guardian that resumes later would signal groups that have ended since.
        self._end()
        if self._groups:
            self._start()

    def _write(self, line: str) -> bool:
        """Write a line to the guardian process and tell whether that worked."""
        if self._process is None or not self._holds_pipe():
            return False
        try:
            os.write(self._pipe, line.encode())  # atomic: it is shorter than PIPE_BUF
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    def _start(self) -> None:
        """Start a guardian process with all groups as arguments, which unlike the pipe cannot fill up."""
        command = _command(self._groups)
        if command is None:
            self._warn_once("there is no /bin/sh with a sleep command, and no Python interpreter, to run it")
            return
        try:
            with fork_barrier:
                theirs, ours = open_pipe()
                try:
                    self._process = Popen(  # noqa: S603  # a constant program; its arguments are numbers and a path
                        command, stdin=theirs, stdout=DEVNULL, stderr=DEVNULL, env={}, cwd="/", start_new_session=True
                    )
                except BaseException:
                    close_end(ours)
                    raise
                finally:
                    close_end(theirs)
        except OSError as error:
            self._warn_once(f"it cannot be started: {error}")
            return
        os.set_blocking(ours, False)
        self._pipe, self._identity = ours, _identity(ours)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with suppress(TimeoutExpired):
            process.wait(REAP_TIMEOUT)
        if self._holds_pipe():
            close_end(self._pipe)

    def _holds_pipe(self) -> bool:
        """Tell whether our descriptor is still that of the pipe: the program may have closed all its descriptors."""
        try:
            return _identity(self._pipe) == self._identity
        except OSError:
            return False

    def _warn_once(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self.warn(f"No guardian process: {why}. If this program is killed, its stdio servers may keep running.")


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _command(groups: set[int]) -> list[str] | None:
    """Return the command that guards these groups; None if this system has nothing to run it with."""
    parent, numbers = str(os.getpid()), map(str, sorted(groups))
    # Preferably the system's own. Symbolic links are kept: busybox depends on the name that it is called by.
    sleep = shutil.which("sleep", path=os.defpath) or shutil.which("sleep")
    if sleep is not None and os.access(SHELL, os.X_OK):
        return [SHELL, "-c", LISTEN, SHELL, OUTLIVE, parent, str(Path(sleep).absolute()), *numbers]
    if sys.executable and not getattr(sys, "frozen", False):
        return [sys.executable, "-I", "-S", "-c", IN_PYTHON, parent, *numbers]
    return None
