"""Splits a stream of bytes into lines, in linear time and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

import attrs

SMALL_PIECE: Final = 512
"""Pieces with fewer bytes are appended to the previous one: otherwise a server that writes one byte at a time would
make a long line cost many times its length."""


class LineTooLong(Exception):
    """A line is longer than the limit."""


@final
@attrs.define(eq=False)
class LineSplitter:
    """Splits a stream of chunks at newlines.

    Each byte is scanned once and copied once, however the chunks are cut: a line is joined only when it is complete.
    """

    limit: int
    """The longest line in bytes, its newline not counted."""
    cut: bool = attrs.field(default=False, kw_only=True)
    """Whether to truncate longer lines instead of raising `LineTooLong`."""
    _pieces: list[bytearray] = attrs.field(factory=list[bytearray], init=False, repr=False)
    """The line that is not complete yet, in pieces."""
    _held: int = attrs.field(default=0, init=False)
    """The total length of the pieces."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that `chunk` completes, without their newlines.

        Raises:
            LineTooLong: A line is longer than the limit, and `cut` is false. Its beginning is discarded.
        """
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._hold(chunk[start:end])
            yield self.take()
            start = end + 1
        self._hold(chunk[start:])

    def take(self) -> bytes:
        """Return the incomplete line and discard it."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        return line

    def _hold(self, piece: bytes) -> None:
        if self._held + len(piece) > self.limit:
            if not self.cut:
                self.take()
                raise LineTooLong
            piece = piece[: self.limit - self._held]
        self._held += len(piece)
        if self._pieces and len(piece) < SMALL_PIECE:
            self._pieces[-1] += piece
        elif piece:
            self._pieces.append(bytearray(piece))
