"""Bodies of HTTP responses: read whole up to a limit, or watched while they stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, final

import httpx2

_OF_THE_WIRE: Final = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that no longer hold once a body has been decoded."""


@final
class TooLong(Exception):
    """A body, or one event of a stream, grew longer than the limit."""


@final
class WatchedStream(httpx2.AsyncByteStream):
    """A decoded event stream that tells how it ended, and refuses an event longer than the limit.

    Args:
        response: Whose body it is.
        limit: The longest event in bytes.
        on_end: Called once, with the error that broke the stream, or None when the server ended it.
    """

    def __init__(self, response: httpx2.Response, limit: int, on_end: Callable[[Exception | None], None]) -> None:
        self._response = response
        self._limit = limit
        self._on_end = on_end
        self._tail = b""
        """The end of what has arrived, as long as it may be the beginning of the blank line that ends an event."""
        self._held = 0
        """Bytes of the event that has not ended."""

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    self._measure(chunk)
                    yield chunk
        except Exception as error:
            self._on_end(error)
            raise
        self._on_end(None)

    async def aclose(self) -> None:
        """Close the response."""
        await self._response.aclose()

    def _measure(self, chunk: bytes) -> None:
        seen = self._tail + chunk
        ends = [seen.rfind(blank) + len(blank) for blank in (b"\n\n", b"\r\n\r\n", b"\r\r") if blank in seen]
        self._held = len(seen) - max(ends) if ends else self._held + len(chunk)
        self._tail = seen[-3:]
        if self._held > self._limit:
            raise TooLong


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


def rebuilt(response: httpx2.Response, body: bytes | httpx2.AsyncByteStream) -> httpx2.Response:
    """Return a response like this one, with a body that has been decoded."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_THE_WIRE]
    content, stream = (body, None) if isinstance(body, bytes) else (None, body)
    return httpx2.Response(
        response.status_code, headers=headers, content=content, stream=stream, request=response.request
    )


def watch(response: httpx2.Response, limit: int, on_end: Callable[[Exception | None], None]) -> httpx2.Response:
    """Return a response whose stream of events is looked at; arguments as for `WatchedStream`."""
    return rebuilt(response, WatchedStream(response, limit, on_end)) if response.is_success else response
