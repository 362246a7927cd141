"""A server's output that has not been handed on yet, and when the server last wrote something.

One message is handed on per turn of the event loop, so after a flood, handing on the rest takes a while. When that
happens says nothing about the server, which may have been stopped meanwhile. So what counts as activity is that new
data has arrived in the pipe, and the pipe is checked in every turn.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from typing import Final, final

import anyio
import attrs

from mcp_pool.transports.stdio.process import CHUNK

if sys.platform != "win32":  # pragma: no branch  # this module is imported there too, but not used
    import fcntl
    import termios

PAGE: Final = 4096
"""The most bytes that are handed on between two checks of the pipe. While the pipe is full, the server cannot write, so
no activity could be seen."""


@final
@attrs.define(eq=False)
class ReadAhead:
    """The output of a server, read ahead of its use, and a notice of each new arrival."""

    descriptor: int
    """The pipe to read, in non-blocking mode."""
    note_activity: Callable[[], None] = attrs.field(repr=False)
    """Called whenever the server has written something since the last check."""
    _held: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    """The bytes that have been read and not returned yet."""
    _left: int = attrs.field(default=0, init=False)
    """How many bytes stayed in the pipe at the last check."""

    async def page(self) -> bytes:
        """Return the next bytes, at most `PAGE`; empty at the end of the stream.

        Waits only if no bytes are held. In that case other tasks get a turn, even if the pipe has data.
        """
        if not self._held:
            await anyio.wait_readable(self.descriptor)
            self.look()
        page = bytes(self._held[:PAGE])
        del self._held[:PAGE]
        return page

    def look(self) -> None:
        """Check whether something was written, and read what there is room for: at most `CHUNK` bytes are held."""
        available = _readable(self.descriptor)
        if available > self._left:
            self.note_activity()
        taken = min(available, CHUNK - len(self._held))
        self._left = available - taken
        if taken:
            self._held += os.read(self.descriptor, taken)


def _readable(descriptor: int) -> int:
    """Return how many bytes can be read from a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0)))
    return int(count)
