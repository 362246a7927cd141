"""In-memory servers for clients to pass as `http_client`: the test decides what they do with a message.

They do not depend on the outside world, so that they can be used with a virtual clock.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

PLACE = "http://host.test"
HANDSHAKE = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "x", "version": "1"},
}
STREAM = {"content-type": "text/event-stream"}


def result_of(message: dict[str, Any]) -> dict[str, Any]:
    """The results of a server with one tool."""
    results: dict[str, dict[str, Any]] = {
        "initialize": HANDSHAKE,
        "tools/list": {"tools": [{"name": "work", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "done"}]},
    }
    return {"jsonrpc": "2.0", "id": message["id"], "result": results.get(message["method"], {})}


def event(message: dict[str, Any]) -> bytes:
    """A message on an event stream."""
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


class Streamed(httpx2.AsyncByteStream):
    """A body that is produced while it is read."""

    def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
        self.pieces = pieces

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self.pieces

    async def aclose(self) -> None:
        """Close the stream."""
        await self.pieces.aclose()


@attrs.define(eq=False)
class InMemory(httpx2.AsyncBaseTransport):
    """What all of them have in common: they record what arrives, and how many requests are open."""

    take: Callable[[dict[str, Any]], Awaitable[httpx2.Response | None]]
    """Called with each message; returns the response when the server accepts it, or None to behave well."""
    seen: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]], init=False)
    """The messages."""
    open: int = attrs.field(default=0, init=False)
    """How many of them have not been accepted."""

    def count(self, method: str) -> int:
        """How many messages of a kind have arrived."""
        return sum(message.get("method") == method for message in self.seen)

    async def taken(self, request: httpx2.Request) -> httpx2.Response | None:
        """Record a message, and have it handled."""
        self.seen.append(json.loads(request.content))
        self.open += 1
        try:
            return await self.take(self.seen[-1])
        finally:
            self.open -= 1


@attrs.define(eq=False)
class OverHttp(InMemory):
    """A server with streamable HTTP and a legacy protocol."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        if request.method != "POST":
            return httpx2.Response(405)
        response = await self.taken(request)
        if response is not None:
            return response
        if not {"id", "method"} <= self.seen[-1].keys():
            return httpx2.Response(202)
        return httpx2.Response(200, json=result_of(json.loads(request.content)))


@attrs.define(eq=False)
class OverSse(InMemory):
    """A server with HTTP+SSE."""

    tells: bool = True
    """Whether the transport emits trace events when it sends, as the one of httpx2 does."""
    endpoint: bytes = b"/messages?session_id=1"
    """What the stream begins with: where it wants messages."""
    _out: Any = attrs.field(default=None, init=False)

    def say(self, piece: bytes) -> None:
        """Send something on the stream."""
        self._out.send_nowait(piece)

    def answer(self, message: dict[str, Any]) -> None:
        """Answer a request on the stream."""
        self.say(event(result_of(message)))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        if request.method == "GET":
            return httpx2.Response(200, headers=STREAM, stream=Streamed(self._events()))
        if self.tells:
            await request.extensions["trace"]("http11.send_request_headers.started", {})
        response = await self.taken(request)
        if response is None:
            message = json.loads(request.content)
            if {"id", "method"} <= message.keys():
                self.answer(message)
        return response or httpx2.Response(202)

    async def _events(self) -> AsyncGenerator[bytes]:
        self._out, events = anyio.create_memory_object_stream[bytes](1000)
        with self._out, events:
            yield b"event: endpoint\ndata: " + self.endpoint + b"\n\n"
            async for piece in events:
                yield piece
