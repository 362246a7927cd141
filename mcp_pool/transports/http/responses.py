"""Bodies of HTTP responses: read whole up to a limit, or looked at while they stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Final, TypeVar, final

import anyio
import attrs
import httpx2

_T = TypeVar("_T")

EVENT_STREAM: Final = "text/event-stream"
"""The content type of a stream of events."""
_ENCODING_HEADERS: Final = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that no longer hold once a body has been decoded."""


_UNREAD: Final = "mcp_pool_unread"
"""The extension of a response whose body is lost."""


@final
class TooLong(Exception):
    """A body, or one event of a stream, grew longer than the limit."""


@final
class WaitCancelled(Exception):
    """Nobody waits for this any more."""


@final
@attrs.define(eq=False)
class CancellableWait:
    """The waiting for one answer. It can be given up from another task."""

    is_cancelled: bool = False
    """Whether it has been given up."""
    _scope: anyio.CancelScope | None = attrs.field(default=None, init=False, repr=False)

    def cancel(self) -> None:
        """Give up: whoever waits stops, and nobody begins."""
        self.is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, wait: Callable[[], Awaitable[_T]]) -> _T:
        """Wait for something.

        Raises:
            WaitCancelled: It has been given up.
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
    """Takes a stream apart into events as far as is needed to see what they hold, and how long they grow.

    Args:
        limit: The longest event in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line: list[bytes] = []
        """The pieces of the line that has not ended."""
        self._held = 0
        """Bytes of the event that has not ended."""
        self._name = b""
        self._data: list[bytes] = []
        self._ended_in_return = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take what arrived, and yield the data of each message that it completes.

        Raises:
            TooLong: An event is longer than the limit.
        """
        if self._ended_in_return:
            chunk = b"\r" + chunk  # perhaps the first half of a line's end
        self._ended_in_return = chunk.endswith(b"\r")
        text = chunk[:-1] if self._ended_in_return else chunk
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._grow(line)
            whole = b"".join(self._line)
            self._line.clear()
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
            self._held -= len(line)  # a comment: a stream that is kept alive by them may go on for ever
        elif name == b"event":
            self._name = value
        elif name == b"data":
            self._data.append(value)

    def _finish(self) -> bytes | None:
        name, data = self._name, b"\n".join(self._data)
        self._name, self._held = b"", 0
        self._data.clear()
        return data if data and name in (b"", b"message") else None


@final
class WatchedStream(httpx2.AsyncByteStream):
    """A decoded event stream that tells what passes and how it ended, and refuses an event longer than the limit.

    Args:
        response: Whose body it is.
        limit: The longest event in bytes.
        on_end: Called once, with the error that broke the stream, or None when the server ended it.
        on_message: Called with the data of each message, before it is passed on.
        wait: How long to wait for more.
    """

    def __init__(
        self,
        response: httpx2.Response,
        limit: int,
        on_end: Callable[[Exception | None], None],
        on_message: Callable[[bytes], None] | None = None,
        wait: CancellableWait | None = None,
    ) -> None:
        self._response = response
        self._events = EventReader(limit)
        self._on_end = on_end
        self._on_message = on_message
        self._wait = wait or CancellableWait()

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._response.aiter_bytes()) as chunks:
                while (chunk := await self._wait.run(lambda: anext(chunks, None))) is not None:
                    for message in self._events.feed(chunk):
                        if self._on_message is not None:
                            self._on_message(message)
                    yield chunk
        except Exception as error:
            self._on_end(error)
            raise
        self._on_end(None)

    async def aclose(self) -> None:
        """Close the response."""
        await self._response.aclose()


async def read_whole(response: httpx2.Response, limit: int) -> bytes:
    """Return the decoded body of a response, and close it.

    Raises:
        TooLong: It is longer than `limit` bytes.
        httpx2.RequestError: It broke off or does not decode.
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
    """Return the content type of a response in lower case, without its parameters; empty when there is none."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def rebuilt(response: httpx2.Response, body: bytes | httpx2.AsyncByteStream) -> httpx2.Response:
    """Return a response like this one, with a body that has been decoded."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _ENCODING_HEADERS]
    content, stream = (body, None) if isinstance(body, bytes) else (None, body)
    again = httpx2.Response(
        response.status_code, headers=headers, content=content, stream=stream, request=response.request
    )
    again.next_request = response.next_request
    return again


def unread(response: httpx2.Response) -> httpx2.Response:
    """Return a response like this one, whose body was closed before anybody read it."""
    again = rebuilt(response, b"")
    again.extensions = {_UNREAD: True}
    return again


def is_unread(response: httpx2.Response) -> bool:
    """Tell whether nobody can know what was in the body of a response."""
    return _UNREAD in response.extensions


def watch(response: httpx2.Response, limit: int, on_end: Callable[[Exception | None], None]) -> httpx2.Response:
    """Return a response whose stream of events is looked at; arguments as for `WatchedStream`."""
    return rebuilt(response, WatchedStream(response, limit, on_end)) if response.is_success else response
