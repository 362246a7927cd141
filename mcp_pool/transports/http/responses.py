"""Bodies of HTTP responses: read whole up to a limit, or watched as they stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import Final, TypeVar, final

import anyio
import attrs
import httpx2

_T = TypeVar("_T")

EVENT_STREAM: Final = "text/event-stream"
"""The content type of an event stream."""
RETRY_STATUSES: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""The statuses with which `Retry-After` is meant for the same request."""
_ENCODING_HEADERS: Final = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that do not apply to a decoded body."""
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
@attrs.frozen
class Event:
    """One event of a stream. Events without data do not count (HTML standard, Server-sent events)."""

    name: bytes
    """Its name; "message" if it has none."""
    data: bytes = attrs.field(repr=False)
    """Its data, in UTF-8."""
    lines: list[bytes] = attrs.field(repr=False)
    """Its lines, without comments."""

    @property
    def is_message(self) -> bool:
        """Whether it carries a message."""
        return self.name == b"message"

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
        if self._ended_in_return:
            chunk = b"\r" + chunk  # it may be the first half of a CRLF
        self._ended_in_return = chunk.endswith(b"\r")
        text = chunk[:-1] if self._ended_in_return else chunk
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._grow(line)
            whole = b"".join(self._line)
            self._line.clear()
            if whole:
                self._take(whole)
            elif (event := self._finish()).data:
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
        wait: Runs each read, so that reading can be cancelled.
        revise: Returns what is passed on in place of each event; None: the stream is passed on unchanged.
    """

    def __init__(
        self,
        response: httpx2.Response,
        limit: int,
        on_end: Callable[[Exception | None], None],
        on_message: Callable[[bytes], None],
        wait: CancellableWait | None = None,
        *,
        revise: Callable[[Event], bytes] | None = None,
    ) -> None:
        self._response = response
        self._events = EventReader(limit)
        self._on_end = on_end
        self._on_message = on_message
        self._wait = wait or CancellableWait()
        self._revise = revise

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._response.aiter_bytes()) as chunks:
                while (chunk := await self._wait.run(lambda: anext(chunks, None))) is not None:
                    yield self._passed_on(chunk)
        except Exception as error:
            self._on_end(error)
            raise
        self._on_end(None)

    def _passed_on(self, chunk: bytes) -> bytes:
        """Report the messages that a chunk completes, and return what is passed on for it."""
        revised: list[bytes] = []
        for event in self._events.events(chunk):
            if event.is_message:
                self._on_message(event.data)
            if self._revise is not None:
                revised.append(self._revise(event))
        return chunk if self._revise is None else b"".join(revised)

    async def aclose(self) -> None:
        """Close the response."""
        await self._response.aclose()


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


def retry_after(response: httpx2.Response) -> float | None:
    """Return how many seconds a server asks to wait (RFC 9110, section 10.2.3); None if it does not ask."""
    value = response.headers.get("retry-after", "").strip()
    if response.status_code not in RETRY_STATUSES or not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time())
    except Exception:  # noqa: BLE001  # the parser raises more than ValueError, and the text is the server's
        return None


def rebuilt(response: httpx2.Response, body: bytes | httpx2.AsyncByteStream) -> httpx2.Response:
    """Return a copy of a response with another body, which is already decoded."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _ENCODING_HEADERS]
    content, stream = (body, None) if isinstance(body, bytes) else (None, body)
    again = httpx2.Response(
        response.status_code, headers=headers, content=content, stream=stream, request=response.request
    )
    again.next_request = response.next_request
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
    revise: Callable[[Event], bytes],
) -> httpx2.Response:
    """Return a copy of a successful response with a watched event stream; arguments as for `WatchedStream`."""
    if not response.is_success:
        return response
    return rebuilt(response, WatchedStream(response, limit, on_end, on_message, revise=revise))
