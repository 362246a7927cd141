"""Bodies of HTTP responses: read whole up to a limit, or watched as they stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Final, TypeVar, final

import anyio
import attrs
import httpx2

from mcp_pool.transports.http.stream_pace import StreamPace

_T = TypeVar("_T")

EVENT_STREAM: Final = "text/event-stream"
"""The content type of an event stream."""
_ENCODING_HEADERS: Final = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that do not apply to a decoded body."""
_RETRY_AT_ONCE: Final = b"retry: 0\n"
"""Tells the SDK not to wait before it opens a stream again."""
_UNREAD: Final = "mcp_pool_unread"
"""Marks, as an extension, a response whose body was closed unread."""


@final
class TooLong(Exception):
    """A body, or one event of a stream, exceeds the limit."""


@final
class WaitCancelled(Exception):
    """The wait was cancelled, because its call has ended."""


@final
@attrs.define(eq=False)
class CancellableWait:
    """Waits for the answer to one call, until it is cancelled from another task."""

    is_cancelled: bool = False
    """Whether it has been cancelled."""
    _scope: anyio.CancelScope | None = attrs.field(default=None, init=False, repr=False)

    def cancel(self) -> None:
        """Cancel the current wait, and refuse later ones."""
        self.is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, wait: Callable[[], Awaitable[_T]]) -> _T:
        """Call an async function and return its result.

        Raises:
            WaitCancelled: The wait was cancelled, now or before.
        """
        if not self.is_cancelled:
            self._scope = anyio.CancelScope()
            try:
                with self._scope:
                    return await wait()
            finally:
                self._scope = None
        raise WaitCancelled


@final
class EventReader:
    """Parses an event stream just enough to see the data of each message and the size of each event.

    Args:
        limit: The longest event in bytes.
        on_line: Called with each complete line, without its end, before the message that it completes is yielded.
    """

    def __init__(self, limit: int, on_line: Callable[[bytes], None] = lambda _line: None) -> None:
        self._limit = limit
        self._on_line = on_line
        self._line: list[bytes] = []
        """The pieces of the current, incomplete line."""
        self._held = 0
        """Bytes of the current, incomplete event."""
        self._name = b""
        self._data: list[bytes] = []
        self._ended_in_return = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Process a chunk, and yield the data of each message that it completes.

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
            self._on_line(whole)
            if whole:
                self._take(whole)
            elif (message := self._finish()) is not None:
                yield message
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
        elif name == b"event":
            self._name = value
        elif name == b"data":
            self._data.append(value)

    def _finish(self) -> bytes | None:
        # Events are text: bytes that are not UTF-8 are replaced (HTML standard, Server-sent events), as the SDK does.
        name, data = self._name, b"\n".join(self._data).decode("utf-8", "replace").encode()
        self._name, self._held = b"", 0
        self._data.clear()
        return data if data and name in (b"", b"message") else None


@final
class WatchedStream(httpx2.AsyncByteStream):
    """A decoded event stream that reports its messages and its end, and fails on an event longer than the limit.

    The SDK sleeps for as long as a `retry:` field says, even after the call has ended, and fails on a huge number. So
    it is told not to wait at all, and the pace, which has a minimum and a maximum, takes the field as a wish.

    Args:
        response: The response to read from.
        limit: The longest event in bytes.
        on_end: Called once, with the error that broke the stream, or None when the server ended it.
        on_message: Called with the data of each message, before it is passed on.
        wait: Runs each read, so that reading can be cancelled.
        pace: Decides how soon the stream is opened again.
        hide_break: Whether a broken stream looks like one that the server has ended.
    """

    def __init__(
        self,
        response: httpx2.Response,
        limit: int,
        on_end: Callable[[Exception | None], None],
        on_message: Callable[[bytes], None],
        wait: CancellableWait | None = None,
        *,
        pace: StreamPace | None = None,
        hide_break: bool = False,
    ) -> None:
        self._response = response
        self._events = EventReader(limit, self._keep)
        self._kept: list[bytes] = []
        """The complete lines that have not been passed on yet, and their ends."""
        self._on_end = on_end
        self._on_message = on_message
        self._wait = wait or CancellableWait()
        self._pace = pace or StreamPace()
        self._hide_break = hide_break

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            yield _RETRY_AT_ONCE
            async with aclosing(self._response.aiter_bytes()) as chunks:
                while (chunk := await self._wait.run(lambda: anext(chunks, None))) is not None:
                    for message in self._events.feed(chunk):
                        self._pace.note_progress()
                        self._on_message(message)
                    lines, self._kept = self._kept, []
                    yield b"".join(lines)
        except Exception as error:
            self._pace.note_end()
            self._on_end(error)
            if not self._hide_break:
                raise
        else:
            self._pace.note_end()
            self._on_end(None)

    async def aclose(self) -> None:
        """Close the response."""
        await self._response.aclose()

    def _keep(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"retry":
            self._pace.note_wish(value)
        else:
            self._kept += (line, b"\n")


async def read_whole(response: httpx2.Response, limit: int) -> bytes:
    """Return the decoded body of a response, and close the response.

    Raises:
        TooLong: The body is longer than `limit` bytes.
        httpx2.RequestError: The body is incomplete, or cannot be decoded.
    """
    pieces: list[bytes] = []
    held = 0
    try:
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                held += len(chunk)
                if held > limit:
                    raise TooLong
                pieces.append(chunk)
    finally:
        await response.aclose()
    return b"".join(pieces)


def content_type(response: httpx2.Response) -> str:
    """Return the content type of a response in lower case, without parameters; empty if it has none."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def rebuilt(response: httpx2.Response, body: bytes | httpx2.AsyncByteStream) -> httpx2.Response:
    """Return a copy of a response with another body, which is already decoded."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _ENCODING_HEADERS]
    content, stream = (body, None) if isinstance(body, bytes) else (None, body)
    again = httpx2.Response(
        response.status_code, headers=headers, content=content, stream=stream, request=response.request
    )
    again.next_request = response.next_request
    if stream is not None:
        again.encoding = "utf-8"  # as all event streams; with another charset, the SDK would see other lines
    return again


def unread(response: httpx2.Response) -> httpx2.Response:
    """Return a copy of a response whose body was closed before anybody read it, marked as such."""
    again = rebuilt(response, b"")
    again.extensions = {_UNREAD: True}
    return again


def is_unread(response: httpx2.Response) -> bool:
    """Return whether the body of a response was closed unread, so that its contents are unknown."""
    return _UNREAD in response.extensions


def watch(
    response: httpx2.Response,
    limit: int,
    on_end: Callable[[Exception | None], None],
    on_message: Callable[[bytes], None],
) -> httpx2.Response:
    """Return a copy of a successful response with a watched event stream; arguments as for `WatchedStream`."""
    return rebuilt(response, WatchedStream(response, limit, on_end, on_message)) if response.is_success else response
