"""Bytes in, lines out: linear in what arrives, and bounded in what is held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

import attrs

SMALL_PIECE: Final = 512
"""Bytes below which a piece joins the one before it: a server that writes a byte at a time must not make a long line
cost many times its length."""


class LineTooLong(Exception):
    """A line grew longer than the limit before it ended."""


@final
@attrs.define(eq=False)
class LineSplitter:
    """Splits a stream of chunks at newlines.

    Each byte is looked at once and copied once, however the chunks fall: a line is joined only when it has ended.
    """

    limit: int
    """The longest line in bytes, its newline not counted."""
    cut: bool = attrs.field(default=False, kw_only=True)
    """Whether longer lines are cut at the limit instead of refused."""
    _pieces: list[bytearray] = attrs.field(factory=list[bytearray], init=False, repr=False)
    """The beginning of the line that has not ended yet."""
    _held: int = attrs.field(default=0, init=False)
    """The length of all pieces together."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that end in `chunk`, without their newlines.

        Raises:
            LineTooLong: A line is longer than the limit, and not to be cut. What was held of it is forgotten.
        """
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._hold(chunk[start:end])
            yield self.take()
            start = end + 1
        self._hold(chunk[start:])

    def take(self) -> bytes:
        """Return what is held of a line that has not ended, and forget it."""
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
