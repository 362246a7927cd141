"""One exchange of `http_raw.py`: an HTTP request, and the server's messages in response.

The answer is sent as JSON or on an event stream: that of the response or, in the old transport, that of the session. The
events of a stream with event ids can be fetched again with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
import json

from http_wire import Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from http_raw import RawServer
    from http_wire import Connection, Request

    Json = dict[str, Any]

MODERN_STATUSES: Final = {-32601: 404, -32602: 400}
"""The HTTP statuses of JSON-RPC errors in the modern protocol. In the legacy protocol, errors have the status of results."""

PADDING: Final = b"(padding)"  # as in `misbehaving.py`: replaced by padding in a message
EVENT_STREAM: Final = "text/event-stream"


class Session:
    """A session of the legacy protocol."""

    def __init__(self, session_id: str, path: str, stream: Connection | None) -> None:
        self.session_id = session_id
        self.path = path
        """The path for its POSTs."""
        self.stream = stream
        """The response to a GET, for the server's own messages."""


class Exchange:
    """One request and its response."""

    def __init__(self, server: RawServer, own: Connection, request: Request, message: Json | None) -> None:
        self.server = server
        self.own = own
        """The connection of the request."""
        self.out: Connection = own
        """The connection for events."""
        self.request = request
        self.message = message
        """The JSON-RPC message; None for a GET or a DELETE."""
        self.session: Session | None = None
        self.modern = False
        self.streams = server.options.stream
        """Whether to answer on an event stream even if there is only the answer."""
        self.ids = server.options.event_ids
        """Whether events have ids."""
        self.key = server.next_key()
        self.stored: list[tuple[bytes, bool]] = []
        """The messages so far, and whether each is the answer. The first entry is empty, and only has an id."""
        self.messages: asyncio.Queue[tuple[Json, int | None]] = asyncio.Queue()

    @property
    def method(self) -> str:
        """The method of the message."""
        return (self.message or {}).get("method", "")

    @property
    def tool(self) -> str | None:
        """The tool that is called."""
        return ((self.message or {}).get("params") or {}).get("name") if self.method == "tools/call" else None

    @property
    def token(self) -> object:
        """The progress token of the request."""
        return (((self.message or {}).get("params") or {}).get("_meta") or {}).get("progressToken")

    @property
    def has_answer(self) -> bool:
        """Whether the message is a request."""
        return "id" in (self.message or {})

    @property
    def names(self) -> Json:
        """The message in the ledger."""
        message = self.message or {}
        return {"method": message.get("method"), "id": message.get("id"), "tool": self.tool}

    @property
    def entry(self) -> Json:
        """The HTTP request in the ledger."""
        request, headers = self.request, self.request.headers
        shown = {"session": "mcp-session-id", "auth": "authorization", "cookies": "cookie", "resume": "last-event-id"}
        entry = {"verb": request.verb, "path": request.path, **self.names, "connection": self.own.number}
        return entry | {name: headers.get(header) for name, header in shown.items()} | {"headers": headers}

    async def next(self) -> tuple[bytes, bool, int]:
        """Wait for the server's next message: encoded, with its HTTP status, and whether it is the answer."""
        waits = [asyncio.ensure_future(self.messages.get()), asyncio.ensure_future(self.out.gone.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.out.gone.is_set():
            raise Gone
        message, size = waits[0].result()
        data = json.dumps(message).encode()
        if size:
            data = data.replace(PADDING, b"x" * (size - len(data) + len(PADDING)))
        status = MODERN_STATUSES.get((message.get("error") or {}).get("code"), 200) if self.modern else 200
        return data, "id" in message, status

    async def answer(self) -> bytes:
        """Run the request, and wait for the answer; messages before it are skipped."""
        self.run()
        is_answer = not self.has_answer
        data = b""
        while not is_answer:
            data, is_answer, _ = await self.next()
        return data

    def run(self) -> None:
        """Run the request."""
        if self.message is not None:
            self.server.run_message(self)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the response to a handshake."""
        return [("Mcp-Session-Id", self.session.session_id)] if self.session and self.method == "initialize" else []

    async def open(self) -> None:
        """Start the event stream. In the old transport it is open already, and the request is accepted."""
        if self.out is not self.own:
            await self.own.respond(202, b"Accepted", "text/plain")
        else:
            await self.own.open_chunked(EVENT_STREAM, self.headers)
        self.stored.append((b"", False))
        if self.ids:
            self.server.resumable[str(self.key)] = self
            await self.event(0)

    async def event(self, index: int) -> None:
        """Send a stored event by its index; the first with an id also sets the retry delay."""
        number = f"{self.key}-{index}" if self.ids else ""
        retry = self.server.options.retry if self.ids and index == 0 else None
        await self.out.event(self.stored[index][0], number=number, retry=retry)

    async def respond(self) -> None:
        """Behave: run the request, and answer as JSON, or on an event stream if there are other messages."""
        if self.streams and (self.has_answer or self.out is not self.own):
            await self.open()
        self.run()
        if not self.has_answer:
            if self.out is self.own:
                await self.own.respond(202)
            return
        first = await self.next()
        if first[1] and not self.streams:
            await self.own.respond(first[2], first[0], headers=self.headers)
            return
        if not self.streams:
            await self.open()
        self.stored.append(first[:2])
        await self.go_on(1)

    async def go_on(self, index: int) -> None:
        """Send events from an index up to the answer, then end the stream if it is that of the response."""
        while True:
            if index == len(self.stored):
                self.stored.append((await self.next())[:2])
            await self.event(index)
            if self.stored[index][1]:
                break
            index += 1
        if self.out is self.own:
            await self.out.end()

    async def resume(self, connection: Connection, last: int) -> None:
        """Send the events after a given one, as the response to a GET."""
        self.own = self.out = connection
        await connection.open_chunked(EVENT_STREAM)
        await self.go_on(last + 1)
