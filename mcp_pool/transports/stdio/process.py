"""A server's process: its pipes, its process group, and how it is stopped.

The process and its pipes are created here rather than by the event loop. This way each descriptor has one owner that
closes it, on every backend, even while a stray descendant of the server holds the other end. And the server gets its
three pipes and nothing else: uvloop passes each pipe to the child twice, so that a server which closes its standard
output does not end the stream, and it also passes every inheritable descriptor of the program.
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
"""Bytes per read: the capacity of a pipe."""
END_OF_INPUT_SHARE: Final = 0.5
"""The share of `close_timeout` that a server has to exit by itself after its standard input was closed."""
TERMINATE_SHARE: Final = 0.4
"""The share of `close_timeout` that it has to exit after SIGTERM. The rest is for SIGKILL to take effect."""
REAP_TIMEOUT: Final = 1.0
"""Seconds for a process to exit after SIGKILL. Only one in an uninterruptible sleep takes longer."""
GROUP_TIMEOUT: Final = 0.25
"""Seconds for killed helpers to disappear. Where nobody reaps orphans they stay zombies, however long one waits."""
GROUP_POLL: Final = 0.005
"""Seconds between two checks whether the group still has members."""


@final
@attrs.define(eq=False)
class ServerProcess:
    """A process that leads its own process group, and our ends of its three pipes."""

    process: Popen[bytes]
    """The process, which is the leader of the group."""
    input: int
    """The descriptor to write its standard input to."""
    output: int
    """The descriptor to read its standard output from."""
    errors: int
    """The descriptor to read its standard error from."""
    guardian: Guardian
    """Ends the group if this program is killed."""
    status: int | None = attrs.field(default=None, init=False)
    """How it ended: the exit code, or minus the number of the signal; None while it runs."""
    exited: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the process has ended and its status is known."""
    _input_open: bool = attrs.field(default=True, init=False)

    async def watch(self) -> None:
        """Wait until the process exits, then set `status` and `exited`."""
        self.status = await exit_status(self.process)
        self.exited.set()

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
    """Return the available bytes, at most `CHUNK`; empty at the end of the stream.

    Always waits first, which lets other tasks run: a server that floods its output is read one chunk at a time.
    """
    await anyio.wait_readable(descriptor)
    return os.read(descriptor, CHUNK)


@contextmanager
def spawn(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | os.PathLike[str] | None, guardian: Guardian
) -> Generator[ServerProcess]:
    """Start a process and hold our ends of its pipes, which are closed on exit. The caller stops the process.

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
