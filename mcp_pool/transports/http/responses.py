"""Bodies of HTTP responses, read whole up to a limit, and what their headers say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
    if stream is not None:
        again.encoding = "utf-8"  # as in all event streams; with another charset, the SDK would see other lines
    return again


def unread(response: httpx2.Response) -> httpx2.Response:
    """Return a copy of a response whose body was closed before anybody read it, marked as such."""
    again = rebuilt(response, b"")
    again.extensions = {_UNREAD: True}
    return again


def is_unread(response: httpx2.Response) -> bool:
    """Return whether the body of a response was closed unread, so that its contents are unknown."""
    return _UNREAD in response.extensions
