"""HTTP/1.1 by hand, so that each byte of it can go wrong: what `http_raw.py` reads and writes. Standard library only."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping
    from typing import Any, Final

CHUNK: Final = 64 * 1024
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, with a time of zero: the peer gets a RST
FIRST_PORT, LAST_PORT = 20_000, 32_767


class Gone(Exception):
    """The client has closed the connection."""


def listening(port: int = 0, *, listen: bool = True, shared: bool = True) -> socket.socket:
    """Take a port of the loopback interface, or a free one.

    A free one is below those that the system assigns to clients. Otherwise, a server that restarts on its port could find
    it taken by an outgoing connection, and a client that tries a closed port could connect to itself. A port that is not
    shared cannot be taken again while old connections linger, but not by others either.
    """
    for _ in range(1 if port else 100):
        candidate = port or FIRST_PORT + int.from_bytes(os.urandom(2), "big") % (LAST_PORT - FIRST_PORT)
        # With the protocol given, asyncio disables Nagle's algorithm.
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))
        try:
            taken.bind(("127.0.0.1", candidate))
            if listen:
                taken.listen(1024)
        except OSError:
            taken.close()
        else:
            return taken
    raise OSError(f"no port: {port or 'a free one'}")


class Request:
    """A request from a client."""

    def __init__(self, verb: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        self.verb = verb
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        """The headers, by name in lower case."""
        self.body = body


class Connection:
    """One client connection, and the response that is being written to it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event, number: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.gone = gone
        """Set as soon as either side has closed the connection."""
        self.number = number
        self.more: list[tuple[str, str]] = []
        """The headers of every response."""
        self.done = asyncio.Event()
        """Set when the response to the current request is complete."""

    async def read_request(self) -> Request | None:
        """Read the next request; None at the end of the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head[:-4].decode("latin-1").split("\r\n")
            verb, target, _version = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            return None
        self.done.clear()
        return Request(verb, target, headers, body)

    async def send(self, data: bytes) -> None:
        """Write bytes unchanged."""
        if self.gone.is_set():
            raise Gone
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise Gone from error

    async def head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Start a response."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in [*self.more, *headers])
        await self.send(f"HTTP/1.1 {status} \r\n{lines}\r\n".encode("latin-1"))

    async def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
        *,
        length: int | None = None,
    ) -> None:
        """Send a whole response, whose declared length may be too long."""
        described = [("Content-Type", content_type)] if body else []
        counted = ("Content-Length", str(len(body) if length is None else length))
        await self.head(status, [*headers, *described, counted])
        for start in range(0, len(body), CHUNK):
            await self.send(body[start : start + CHUNK])
        if length is None:
            self.done.set()

    async def open_chunked(self, content_type: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Start a response of unknown length."""
        described = [("Content-Type", content_type), ("Cache-Control", "no-store"), ("Transfer-Encoding", "chunked")]
        await self.head(200, [*headers, *described])

    async def chunk(self, data: bytes) -> None:
        """Send a piece of it."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, data: bytes, name: str = "message", *, number: str = "", retry: int | None = None) -> None:
        """Send an event of an event stream."""
        fields = f"event: {name}\n" + (f"id: {number}\n" if number else "")
        fields += "" if retry is None else f"retry: {retry}\n"
        await self.chunk(fields.encode() + b"data: %b\n\n" % data)

    async def end(self) -> None:
        """End a response of unknown length properly."""
        await self.send(b"0\r\n\r\n")
        self.done.set()

    def close(self) -> None:
        """Close the connection, even in the middle of a response."""
        self.writer.close()
        self.done.set()
        self.gone.set()

    def reset(self) -> None:
        """Close the connection with a RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()
        self.done.set()
        self.gone.set()

    async def end_as(self, manner: str) -> None:
        """End a response of unknown length by `end`, `cut` or `reset`."""
        if manner == "end":
            await self.end()
        elif manner == "cut":
            self.close()
        else:
            self.reset()


class Watched(asyncio.StreamReaderProtocol):
    """Detects when the client disconnects, which asyncio only reports to readers."""

    def __init__(self, server: Server) -> None:
        self.gone = asyncio.Event()
        super().__init__(asyncio.StreamReader(), lambda *streams: server.accept(*streams, self.gone))

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class Server:
    """Listens on a port, or reserves it without listening, and serves the requests of each connection one by one."""

    def __init__(self, tls: Any = None) -> None:
        self.tls = tls
        self.port = 0
        self.accepted = 0
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener: asyncio.Server | socket.socket | None = None

    async def listen(self, port: int, *, listen: bool = True) -> None:
        """Bind the port again, and listen on it or not."""
        if self.listener is not None:
            self.listener.close()
        taken = listening(port, listen=listen)
        self.port = taken.getsockname()[1]
        if listen:
            loop = asyncio.get_running_loop()
            self.listener = await loop.create_server(lambda: Watched(self), sock=taken, ssl=self.tls, backlog=1024)
        else:
            self.listener = taken

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        """Serve one connection until its end."""
        self.accepted += 1
        connection = Connection(reader, writer, gone, self.accepted)
        self.connections.add(connection)
        try:
            while not gone.is_set() and (request := await connection.read_request()):
                self.start(self.handle(connection, request))
                await connection.done.wait()
        finally:
            self.connections.discard(connection)
            connection.close()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in its own task."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def handle(self, connection: Connection, request: Request) -> None:
        """Respond to a request."""
        raise NotImplementedError
