"""The guardian: a tiny process that ends the servers when the program itself is killed without unwinding.

It reads from a pipe whose only writer is the program, and so sees the end of input when the program dies, however it
dies. End of input alone is no death, for a program may close all its descriptors and live on; so the guardian then
waits until its parent is another process. Both states are shell programs of their own: `$PPID` is looked up only when a
shell starts, and starting over is the one way to look again that needs neither `/proc` nor `ps`.

Never signal a group that may be somebody else's: a number is free for others as soon as its leader is reaped and its
last member is gone. So `remove` is called before the leader is reaped, and after the group has been sent SIGKILL.
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
"""What runs the guardian: it starts ten times as fast as Python and takes a hundredth of the memory."""
REAP_TIMEOUT: Final = 1.0
"""Seconds for the kernel to carry out SIGKILL on the guardian; it takes about one thousandth of that."""

# Ignored signals stay ignored in what a shell runs or becomes, `sleep` included. SIGTERM is among them because a
# service manager sends it to every process of a service when it stops the program.
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

# A group that was seen to be empty is forgotten: from then on its number may be somebody else's.
OUTLIVE: Final = """\
# mcp_pool guardian: the program has closed its pipe; once it is gone, its process groups are ended
sh=$0 outlive=$1 parent=$2 sleep=$3 pause=$4
shift 4
groups=$*
keep_existing() {
  existing=
  for group in $groups; do kill -s 0 -- "-$group" && existing="$existing $group"; done
  groups=$existing
  [ "$groups" ] || exit 0
}
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
"""Waits until the parent is another process, then ends the groups. The first pause is short, because a process that is
dying closes its pipes a moment before its children get another parent. Not every `sleep` takes fractions."""

IN_PYTHON: Final = """\
# mcp_pool guardian: ends the process groups of stdio servers if the program that started them is killed
import os, signal, sys, time

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
"""The same, for a system without a shell."""


@final
@attrs.define(eq=False)
class Guardian:
    """The process groups of a pool's servers, and the process that ends them if this program is killed.

    It is started with the first group. Nothing here waits, but for the milliseconds that it takes to start or to end a
    process. In a forked child of the program, all of it does nothing: the servers are the parent's.
    """

    warn: Callable[[str], None]
    """Is told, once, that there can be no guardian."""
    _groups: set[int] = attrs.field(factory=set[int], init=False)
    """The groups that exist."""
    _process: Popen[bytes] | None = attrs.field(default=None, init=False)
    """The guardian, unless it is still to be started."""
    _pipe: int = attrs.field(default=-1, init=False)
    """Our end of its pipe."""
    _identity: tuple[int, int] = attrs.field(default=(0, 0), init=False)
    """What the pipe is by, whatever its number: device and inode."""
    _owner: int = attrs.field(factory=os.getpid, init=False)
    _has_warned: bool = attrs.field(default=False, init=False)

    @property
    def process_id(self) -> int | None:
        """The process id of the guardian, None while there is none."""
        return None if self._process is None else self._process.pid

    def add(self, group: int) -> None:
        """Guard a process group. Call it right after the server's process was started, before anything is awaited.

        Raises:
            ValueError: No server can have this group: signalling it would reach processes of others.
        """
        if group <= 1:
            raise ValueError(f"{group} is not the process group of a server")
        if os.getpid() == self._owner and group not in self._groups:
            self._groups.add(group)
            self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Guard a process group no longer, because it has ended; a group that is not guarded is passed over.

        Call it when the group has been sent SIGKILL and its leader has exited, but before the leader is reaped.
        """
        if os.getpid() == self._owner and group in self._groups:
            self._groups.remove(group)
            self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the guardian and forget all groups. May be called again."""
        if os.getpid() == self._owner:
            self._groups.clear()
            self._end()

    def _tell(self, line: str) -> None:
        """Write a line to the guardian; one that has gone or is stuck is replaced."""
        if self._is_told(line):
            return
        # First the end: a guardian that is stuck would signal, once it goes on, what it was not told has ended.
        self._end()
        if self._groups:
            self._start()

    def _is_told(self, line: str) -> bool:
        if self._process is None or not self._holds_pipe():
            return False
        try:
            os.write(self._pipe, line.encode())  # whole or not at all, being shorter than PIPE_BUF
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    def _start(self) -> None:
        """Start a guardian and give it all groups, as arguments: however many, none of them can get stuck."""
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
        """Tell whether the number of our end is still that of the pipe: the program may have closed all descriptors."""
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
    """Return what runs the guardian of these groups on this system, None if there is nothing."""
    parent, numbers = str(os.getpid()), map(str, sorted(groups))
    # The system's own, if there is one. Symbolic links stay: busybox goes by the name that it is called by.
    sleep = shutil.which("sleep", path=os.defpath) or shutil.which("sleep")
    if sleep is not None and os.access(SHELL, os.X_OK):
        return [SHELL, "-c", LISTEN, SHELL, OUTLIVE, parent, str(Path(sleep).absolute()), *numbers]
    if sys.executable and not getattr(sys, "frozen", False):
        return [sys.executable, "-I", "-S", "-c", IN_PYTHON, parent, *numbers]
    return None
