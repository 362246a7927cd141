"""A server's process: three pipes, a process group of its own, and the stages of ending it.

Process and pipes are made here and not by the event loop. Then each descriptor has one owner that closes it, on every
backend, even while a stray descendant of the server holds the other end. And the server gets its three pipes and
nothing else: uvloop hands a child each pipe twice, so that one that closes its input or output does not end the stream,
and besides whatever this program made inheritable.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from subprocess import Popen
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.log import log
from mcp_pool.transports.stdio.exit import exit_status
from mcp_pool.transports.stdio.fork_cover import close_end, fork_barrier, open_pipe
from mcp_pool.transports.stdio.guardian import Guardian

CHUNK: Final = 65536
"""Bytes per read: what a pipe holds."""
END_OF_INPUT_SHARE: Final = 0.5
"""The part of `close_timeout` in which a server may leave by itself once its input has ended."""
TERMINATE_SHARE: Final = 0.4
"""The part of `close_timeout` in which it may leave after SIGTERM; what remains is for SIGKILL to be seen."""
REAP_TIMEOUT: Final = 1.0
"""Seconds for the kernel to carry out SIGKILL; only a process in an uninterruptible sleep takes longer."""
GROUP_TIMEOUT: Final = 0.25
"""Seconds for killed helpers to vanish; where nothing reaps orphans they stay zombies, and waiting longer is idle."""
GROUP_POLL: Final = 0.005
"""Seconds between two looks at the group."""


@final
@attrs.define(eq=False)
class ServerProcess:
    """A process that leads a group of its own, and our ends of its three pipes."""

    process: Popen[bytes]
    """The process itself."""
    input: int
    """The descriptor that its standard input is written to."""
    output: int
    """The descriptor that its standard output is read from."""
    errors: int
    """The descriptor that its standard error is read from."""
    guardian: Guardian
    """Ends the group if this program is killed."""
    status: int | None = attrs.field(default=None, init=False)
    """How it ended: the exit code, or minus the number of the signal; None while it runs."""
    exited: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the process has ended and its status is known."""
    _input_open: bool = attrs.field(default=True, init=False)

    async def watch(self) -> None:
        """Wait for the end of the process and tell it."""
        self.status = await exit_status(self.process)
        self.exited.set()

    async def wait_for_room(self) -> None:
        """Wait until its standard input takes something, or has no reader any more."""
        await anyio.wait_writable(self.input)

    def write_some(self, data: memoryview) -> int:
        """Write what its standard input takes at once, and return how many bytes that were.

        Raises:
            BrokenPipeError: Nobody can read it any more; of `data` nothing was written.
        """
        try:
            return os.write(self.input, data)
        except BlockingIOError:  # there is some room, but less than what is written whole or not at all
            return 0

    def end_input(self) -> None:
        """Close its standard input, which asks it to leave."""
        if self._input_open:
            self._input_open = False
            anyio.notify_closing(self.input)
            close_end(self.input)

    async def stop(self, close_timeout: float) -> None:
        """End the process and its whole group, within `close_timeout` seconds and what the kernel needs.

        Its input has ended, or ends now; it is waited for; then SIGTERM; then SIGKILL, which goes to the group even if
        the leader has left: it may have left helpers behind (MCP specification, Lifecycle, Shutdown, stdio).
        """
        with anyio.move_on_after(close_timeout * END_OF_INPUT_SHARE):
            await self.exited.wait()
        if not self.exited.is_set():
            self._signal(signal.SIGTERM)
            with anyio.move_on_after(close_timeout * TERMINATE_SHARE):
                await self.exited.wait()
        self._signal(signal.SIGKILL)
        with anyio.move_on_after(REAP_TIMEOUT):
            await self.exited.wait()
        if self.exited.is_set():
            self.guardian.remove(self.process.pid)
        else:  # pragma: no cover  # needs a process in an uninterruptible sleep
            log("ERROR", None, "Process {} survived SIGKILL and is abandoned", self.process.pid)
        self.process.poll()  # not before: as long as it is not reaped, its number and its group's are nobody else's
        with anyio.move_on_after(GROUP_TIMEOUT):
            while self._signal(0):  # noqa: ASYNC110  # no event tells of processes that are not our children
                await anyio.sleep(GROUP_POLL)

    def _signal(self, number: int) -> bool:
        """Signal the group and tell whether it has members."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS denies signals to a group of zombies
            return False
        return True


async def read(descriptor: int) -> bytes:
    """Return what can be read, at most `CHUNK` bytes; nothing at the end of the stream.

    Waiting first, even where data is there, gives way to other tasks: a flooding server is read a chunk a turn.
    """
    await anyio.wait_readable(descriptor)
    return os.read(descriptor, CHUNK)


@contextmanager
def spawn(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | os.PathLike[str] | None, guardian: Guardian
) -> Generator[ServerProcess]:
    """Start a process and hold our ends of its pipes; leaving closes these. Ending the process is up to the user.

    Not asynchronous: a cancellation between the start and its end would leave a process that nobody knows, and a thread
    would spare nothing, because the interpreter stands still until the new process runs its program.

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
    guardian.add(process.pid)
    stdin, stdout, stderr = ours
    server = ServerProcess(process, stdin, stdout, stderr, guardian)
    try:
        yield server
    finally:
        server.end_input()
        _close(ours[1:])


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        close_end(descriptor)
