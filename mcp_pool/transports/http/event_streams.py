"""Event streams, parsed and watched as they pass (HTML standard, Server-sent events)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import final

import attrs
import httpx2

from mcp_pool.transports.http.responses import CancellableWait, TooLong, rebuilt


@final
@attrs.frozen
class Event:
    """One event of a stream."""

    name: bytes
    """Its name; "message" if it has none."""
    data: bytes = attrs.field(repr=False)
    """Its data, in UTF-8; empty if it has none, and then it does not count."""
    lines: list[bytes] = attrs.field(repr=False)
    """Its lines, without comments."""

    @property
    def is_message(self) -> bool:
        """Whether it carries a message."""
        return self.name == b"message" and bool(self.data)

    @property
    def raw(self) -> bytes:
        """The whole event, as it may be sent on."""
        return b"\n".join(self.lines) + b"\n\n"


@final
class EventReader:
    """Parses an event stream just enough to see the name and the data of each event, and its size.

    Args:
        limit: The longest event in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line: list[bytes] = []
        """The pieces of the current, incomplete line."""
        self._held = 0
        """Bytes of the current, incomplete event."""
        self._name = b""
        self._data: list[bytes] = []
        self._lines: list[bytes] = []
        """The complete lines of the current event, without comments."""
        self._ended_in_return = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Process a chunk, and yield the data of each message that it completes; see `events`."""
        return (event.data for event in self.events(chunk) if event.is_message)

    def events(self, chunk: bytes) -> Iterator[Event]:
        """Process a chunk, and yield each event that it completes.

        Raises:
            TooLong: An event is longer than the limit.
        """
        if not chunk:
            return
        text = chunk.removeprefix(b"\n") if self._ended_in_return else chunk  # the second half of a CRLF
        self._ended_in_return = chunk.endswith(b"\r")
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._grow(line)
            whole = b"".join(self._line)
            self._line.clear()
            if whole:
                self._take(whole)
            elif (event := self._finish()).lines:
                yield event
        self._grow(rest)

    def _grow(self, piece: bytes) -> None:
        self._held += len(piece)
        if self._held > self._limit:
            raise TooLong
        if piece:
            self._line.append(piece)

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not name:
            self._held -= len(line)  # a comment: keep-alive comments must not add up to a long event
            return
        self._lines.append(line)
        if name == b"event":
            self._name = value
        elif name == b"data":
            self._data.append(value)

    def _finish(self) -> Event:
        # Events are text: bytes that are not UTF-8 are replaced (HTML standard, Server-sent events), as the SDK does.
        data = b"\n".join(self._data).decode("utf-8", "replace").encode()
        event = Event(self._name or b"message", data, self._lines)
        self._name, self._held, self._lines = b"", 0, []
        self._data.clear()
        return event


@final
class WatchedStream(httpx2.AsyncByteStream):
    """A decoded event stream that reports its messages and its end, and fails on an event longer than the limit.

    Args:
        response: The response to read from.
        limit: The longest event in bytes.
        on_end: Called once, with the error that broke the stream, or None when the server ended it.
        on_message: Called with the data of each message, before it is passed on.
        revise: Returns what is passed on in place of each event; comments are left out.
        wait: Runs each read, so that reading can be cancelled.
        hide_break: Whether a broken stream looks like one that the server has ended.
    """

    def __init__(
        self,
        response: httpx2.Response,
        limit: int,
        on_end: Callable[[Exception | None], None],
        on_message: Callable[[bytes], None],
        revise: Callable[[Event], bytes],
        *,
        wait: CancellableWait | None = None,
        hide_break: bool = False,
    ) -> None:
        self._response = response
        self._events = EventReader(limit)
        self._on_end = on_end
        self._on_message = on_message
        self._revise = revise
        self._wait = wait or CancellableWait()
        self._hide_break = hide_break

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._response.aiter_bytes()) as chunks:
                while (chunk := await self._wait.run(lambda: anext(chunks, None))) is not None:
                    yield self._passed_on(chunk)
        except Exception as error:
            self._on_end(error)
            if not self._hide_break:
                raise
        else:
            self._on_end(None)

    def _passed_on(self, chunk: bytes) -> bytes:
        """Report the messages that a chunk completes, and return what is passed on for it."""
        revised: list[bytes] = []
        for event in self._events.events(chunk):
            if event.is_message:
                self._on_message(event.data)
            revised.append(self._revise(event))
        return b"".join(revised)

    async def aclose(self) -> None:
        """Close the response."""
        await self._response.aclose()


def watch(
    response: httpx2.Response,
    limit: int,
    on_end: Callable[[Exception | None], None],
    on_message: Callable[[bytes], None],
    revise: Callable[[Event], bytes],
) -> httpx2.Response:
    """Return a copy of a successful response with a watched event stream; arguments as for `WatchedStream`."""
    if not response.is_success:
        return response
    return rebuilt(response, WatchedStream(response, limit, on_end, on_message, revise))
