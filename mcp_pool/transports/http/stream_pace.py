"""How soon an event stream that has ended is opened again, whatever the server wishes."""

from __future__ import annotations

import math
from typing import Final, final

import anyio
import attrs

from mcp_pool.transports.http.event_streams import Event

MIN_DELAY: Final = 0.25
"""Seconds from the end of a stream until it is opened again, at least: at most four requests a second, while a call
whose stream is cut once is hardly delayed. Doubles as long as the stream brings no message and ends at once."""
DEFAULT_DELAY: Final = 1.0
"""The same if the server does not say: the SDK's own default."""
MAX_DELAY: Final = 30.0
"""The same at most. An answer that is ready waits no longer than this, and two requests a minute burden no server."""


@final
@attrs.define(eq=False)
class StreamPace:
    """The pace of one event stream, or of one answer that is resumed. Waits only when told to; it has no task.

    The SDK sleeps for as long as a `retry:` field says, even after the call has ended, and fails on a huge number. So
    it is told not to wait at all, and the pace, which has a minimum and a maximum, takes the field as a wish.
    """

    _wish: float = attrs.field(default=DEFAULT_DELAY, init=False)
    """Seconds that the server wants the client to wait, up to `MAX_DELAY`."""
    _floor: float = attrs.field(default=MIN_DELAY, init=False)
    """Seconds to wait at least after the next end."""
    _opened_at: float = attrs.field(default=-math.inf, init=False)
    _due_at: float = attrs.field(default=-math.inf, init=False)
    """When the stream may be opened again, on the event loop's clock."""

    async def wait(self) -> None:
        """Wait until the stream may be opened, which must follow at once."""
        await anyio.sleep_until(self._due_at)
        self._opened_at = anyio.current_time()

    def revise(self, event: Event) -> bytes:
        """Return what the SDK is to read in place of an event: one that tells it not to wait."""
        lines = [b"retry: 0"]
        for line in event.lines:
            name, _, value = line.partition(b":")
            if name == b"retry":
                self._note_wish(value)
            else:
                lines.append(line)
        return b"\n".join((*lines, b"", b""))

    def note_progress(self) -> None:
        """Record a message on the stream."""
        self._floor = MIN_DELAY

    def note_end(self) -> None:
        """Record that the stream has ended, or that it could not be opened."""
        now = anyio.current_time()
        if now - self._opened_at > self._floor:
            self._floor = MIN_DELAY  # a stream that stands idle, and is cut by a proxy now and then, is a good one
        self._due_at = now + max(self._wish, self._floor)
        self._floor = min(self._floor * 2, MAX_DELAY)

    def _note_wish(self, milliseconds: bytes) -> None:
        """Take the value of a `retry:` field into account, unless it is not a number."""
        if (digits := milliseconds.strip()).isdigit():
            self._wish = min(float(digits) / 1000, MAX_DELAY)  # infinite, and no error, for hundreds of digits
