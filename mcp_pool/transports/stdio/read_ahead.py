"""What a server has written to its output and nobody has looked at yet, and when it last wrote.

Messages are handed on one in each turn of the event loop, so what a flood leaves behind takes long to be looked at. The
time of that would tell nothing of the server, which may have been stopped since. So what counts as a activity is
that the pipe has received something, and that is looked for in every turn.
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

if sys.platform != "win32":  # pragma: no branch  # its module is imported there too, and not used
    import fcntl
    import termios

PAGE: Final = 4096
"""Bytes that are looked at between two looks at the pipe, at the most. A server whose pipe is full can give no sign of
life before something has been taken out."""


@final
@attrs.define(eq=False)
class ReadAhead:
    """The output of a server: its bytes, and its activity."""

    descriptor: int
    """What is read, without blocking."""
    note_activity: Callable[[], None] = attrs.field(repr=False)
    """Called whenever something has been written since the look before."""
    _held: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    """What has been read and not been taken."""
    _left: int = attrs.field(default=0, init=False)
    """How many bytes stayed in the pipe at the latest look."""

    async def page(self) -> bytes:
        """Return the next bytes, at most `PAGE`; nothing at the end of the stream.

        Waits only where nothing is held, and then, even if something is there, other tasks have a turn.
        """
        if not self._held:
            await anyio.wait_readable(self.descriptor)
            self.look()
        page = bytes(self._held[:PAGE])
        del self._held[:PAGE]
        return page

    def look(self) -> None:
        """See whether something has been written, and read what there is room for: `CHUNK` bytes are held at most."""
        there = _readable(self.descriptor)
        if there > self._left:
            self.note_activity()
        taken = min(there, CHUNK - len(self._held))
        self._left = there - taken
        if taken:
            self._held += os.read(self.descriptor, taken)


def _readable(descriptor: int) -> int:
    """Return how many bytes a pipe holds."""
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0)))
    return int(count)
