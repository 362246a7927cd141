"""A server's process: its pipes, its process group, and how it is stopped.

The process and its pipes are created here rather than by the event loop. This way each descriptor has one owner that
closes it, on every backend, even while a stray descendant of the server holds the other end. And the server gets its
three pipes and nothing else: uvloop passes each pipe to the child twice, so that a server which closes its standard
output does not end the stream, and it also passes every inheritable descriptor of the program.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from subprocess import Popen
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.log import log
from mcp_pool.transports.stdio.exit import Exit, look_up_exit, reap, wait_for_exit
from mcp_pool.transports.stdio.fork_cover import close_end, fork_barrier, open_pipe
from mcp_pool.transports.stdio.guardian import Guardian
from mcp_pool.transports.stdio.session import groups_in_session, is_another, is_still, now, start_time

CHUNK: Final = 65536
"""Bytes per read: the capacity of a pipe."""
END_OF_INPUT_SHARE: Final = 0.5
"""The share of `close_timeout` that a server has to exit by itself after its standard input was closed."""
TERMINATE_SHARE: Final = 0.4
"""The share of `close_timeout` that it has to exit after SIGTERM. The rest is for SIGKILL to take effect."""
KILL_TIMEOUT: Final = 1.0
"""Seconds for a process to exit after SIGKILL. Only one in an uninterruptible sleep takes longer."""
BLOCKING_TIMEOUT: Final = 0.25
"""Seconds for that where nothing can be awaited any more, so that the whole program stands still meanwhile."""
GROUP_TIMEOUT: Final = 0.25
"""Seconds for killed helpers to disappear. Where nobody reaps orphans they stay zombies, however long one waits."""
POLL: Final = 0.005
"""Seconds between two checks whether killed helpers are gone."""


@final
@attrs.define(eq=False)
class ServerProcess:
    """A process that leads its own session and process group, and our ends of its three pipes."""

    pid: int
    """Its process id, which is also the id of its group and of its session."""
    input: int
    """The descriptor to write its standard input to."""
    output: int
    """The descriptor to read its standard output from."""
    errors: int
    """The descriptor to read its standard error from."""
    guardian: Guardian
    """Ends the group if this program is killed."""
    _exit: Exit | None = attrs.field(default=None, init=False)
    """How it ended, once that was noticed."""
    _noticed: float = attrs.field(default=0.0, init=False)
    """When its end was noticed, on the clock of `session.now`."""
    _started: float | None = attrs.field(init=False)
    """When it was started, on the same clock; None if unknown."""
    _groups: set[int] = attrs.field(init=False)
    """The process groups to reap: its own, and the others of its session that were found."""
    _released: bool = attrs.field(default=False, init=False)
    """Whether it was reaped, or abandoned. From then on its ids may be reused, and must not be signalled."""
    _input_open: bool = attrs.field(default=True, init=False)
    _owner: int = attrs.field(factory=os.getpid, init=False)

    def __attrs_post_init__(self) -> None:
        self._started = start_time(self.pid)
        self._groups = {self.pid}

    @property
    def exit(self) -> Exit | None:
        """How the process ended; None while it is running."""
        if self._exit is None:
            found = look_up_exit(self.pid)
            if found is None and is_another(self.pid, self._started):
                found = Exit(None)  # others have reaped it
            self._note(found)
        return self._exit

    @property
    def has_exited(self) -> bool:
        """Whether the process has exited."""
        return self.exit is not None

    @property
    def status(self) -> int | None:
        """Its exit code, or minus the number of the signal that killed it; None while it runs, or if unknown."""
        return None if self.exit is None else self.exit.status

    async def wait(self) -> None:
        """Wait until the process has exited."""
        if not self.has_exited:
            self._note(await wait_for_exit(self.pid))

    async def wait_for_room(self) -> None:
        """Wait until its standard input accepts data, or has no reader left."""
        await anyio.wait_writable(self.input)

    def write_some(self, data: memoryview) -> int:
        """Write what its standard input accepts without blocking, and return the number of bytes written.

        Raises:
            BrokenPipeError: Its standard input has no reader left; nothing of `data` was written.
        """
        try:
            return os.write(self.input, data)
        except BlockingIOError:  # there is room, but not for a write that must be atomic
            return 0

    def end_input(self) -> None:
        """Close its standard input, which asks it to exit."""
        if self._input_open:
            self._input_open = False
            with suppress(RuntimeError):  # the event loop is gone, and with it whoever waited
                anyio.notify_closing(self.input)
            close_end(self.input)

    async def stop(self, close_timeout: float) -> None:
        """End the process, its group and the other groups of its session, within `close_timeout` seconds.

        Its input was closed before, or will be. It has some time to exit; then SIGTERM; then SIGKILL, even if the
        process has exited, because helpers may be left (MCP specification, Lifecycle, Shutdown, stdio). However the
        waits are left, everything has been sent SIGKILL afterwards.
        """
        try:
            if not await self._exits_within(close_timeout * END_OF_INPUT_SHARE):
                self._signal(signal.SIGTERM)
                await self._exits_within(close_timeout * TERMINATE_SHARE)
            self._signal(signal.SIGKILL)
            with anyio.move_on_after(KILL_TIMEOUT):
                await self.wait()
                while self._reap():  # noqa: ASYNC110  # nothing notifies of orphans
                    await anyio.sleep(POLL)
            with anyio.move_on_after(GROUP_TIMEOUT):
                while any(map(_exists, self._groups)):  # noqa: ASYNC110  # nor of the children of others
                    await anyio.sleep(POLL)
        finally:
            self.kill()

    def kill(self) -> None:
        """End at once what `stop` has not ended. Blocks for milliseconds: nothing can be awaited where this is needed.

        A second Ctrl-C, `asyncio.run` when its main function returns, and the end of the interpreter take the waits of
        `stop` away, or never begin them.
        """
        if os.getpid() != self._owner or self._released:
            return
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + BLOCKING_TIMEOUT
        while self._reap() and time.monotonic() < deadline:
            time.sleep(POLL)
        if not self._released:  # pragma: no cover  # needs a process in an uninterruptible sleep
            self._released = True
            log("ERROR", None, "Process {} did not exit after SIGKILL and is abandoned", self.pid)

    def _note(self, found: Exit | None) -> None:
        if found is not None and self._exit is None:
            self._exit, self._noticed = found, now()

    async def _exits_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self.wait()
        return self.has_exited

    def _signal(self, number: int) -> None:
        """Signal all groups of the session, if it is certain that they are the server's."""
        if self._may_signal():
            groups = {self.pid} | groups_in_session(self.pid)
            self._groups |= groups
            for group in groups:
                with suppress(ProcessLookupError, PermissionError):  # macOS denies signals to a group of zombies
                    os.killpg(group, number)

    def _may_signal(self) -> bool:
        """Tell whether the ids are still the server's: they may be reused once somebody has reaped it."""
        if self._released or os.getpid() != self._owner:  # in a forked child, the server is the parent's
            return False
        reaped_by_others = self.has_exited and self.status is None
        return not reaped_by_others or is_still(self.pid, self._started, self._noticed)

    def _reap(self) -> bool:
        """Reap what has exited, and tell whether children of ours are left. They have been sent SIGKILL before."""
        if not self.has_exited:
            return True
        self.guardian.remove(self.pid)  # before it is reaped: the guardian must not signal an id that is reused
        self._released = True
        if self.status is None:  # who has reaped it reaps its helpers too; and its ids may be those of another child
            return False
        left = [group for group in self._groups if reap(group)]
        return bool(left)


async def read(descriptor: int) -> bytes:
    """Return the available bytes, at most `CHUNK`; empty at the end of the stream.

    Always waits first, which lets other tasks run: a server that floods its output is read one chunk at a time.
    """
    await anyio.wait_readable(descriptor)
    return os.read(descriptor, CHUNK)


@contextmanager
def spawn(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | os.PathLike[str] | None, guardian: Guardian
) -> Generator[ServerProcess]:
    """Start a process and hold our ends of its pipes, which are closed on exit.

    The caller stops the process; on exit, a process that was not stopped is killed.

    Synchronous, because a cancellation in the middle would leave a process that nobody stops; and a thread would gain
    nothing, because `Popen` holds the interpreter until the new process runs its program.

    Raises:
        OSError: The process could not be started.
    """
    theirs: list[int] = []
    ours: list[int] = []
    with fork_barrier:
        try:
            for we_write in (True, False, False):
                reader, writer = open_pipe()
                theirs.append(reader if we_write else writer)
                ours.append(writer if we_write else reader)
                os.set_blocking(ours[-1], False)
            stdin, stdout, stderr = theirs
            process = Popen(  # noqa: S603  # the command is the user's own: running it is the purpose
                list(command), stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, start_new_session=True
            )
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
    process.returncode = 0  # or `Popen` would reap it behind our back, and report an unknown status as 0
    stdin, stdout, stderr = ours
    server = ServerProcess(process.pid, stdin, stdout, stderr, guardian)
    try:
        guardian.add(server.pid)
        yield server
    finally:
        server.kill()
        server.end_input()
        _close([stdout, stderr])


def _exists(group: int) -> bool:
    """Tell whether a process group has members."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        close_end(descriptor)
