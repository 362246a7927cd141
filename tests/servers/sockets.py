"""Sockets with anyio's waits, for the proxies: an anyio stream can neither be reset nor half-closed."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from servers.http_wire import RESET_ON_CLOSE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHUNK = 64 * 1024


def close(side: socket.socket | None, *, hard: bool = False) -> None:
    """Close a socket that tasks may be waiting for; with `hard`, by a RST."""
    if side is None or side.fileno() == -1:
        return
    with suppress(OSError):
        if hard:
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    anyio.notify_closing(side.fileno())
    side.close()


def still(side: socket.socket) -> int:
    """The descriptor of a socket, unless it is closed; given the socket itself, some loops would keep it open."""
    if side.fileno() == -1:
        raise anyio.ClosedResourceError
    return side.fileno()


async def wait_readable(side: socket.socket) -> None:
    """Wait until there is something to read, or the end."""
    await anyio.wait_readable(still(side))


async def accept(listener: socket.socket) -> socket.socket:
    """Accept the next connection."""
    while True:
        await wait_readable(listener)
        with suppress(BlockingIOError, ConnectionError):
            client, _ = listener.accept()
            return prompt(client)


def prompt(side: socket.socket) -> socket.socket:
    """Make a socket non-blocking, and disable Nagle's algorithm."""
    side.setblocking(False)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return side


async def receive(side: socket.socket) -> bytes:
    """Read what is available; nothing at the end."""
    while True:
        await wait_readable(side)
        with suppress(BlockingIOError):
            return side.recv(CHUNK)


async def send_all(side: socket.socket, data: bytes) -> None:
    """Write everything."""
    rest = memoryview(data)
    while rest:
        await anyio.wait_writable(still(side))
        with suppress(BlockingIOError):
            rest = rest[side.send(rest) :]


async def attempt(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Connect."""
    side = prompt(socket.socket())
    try:
        with suppress(BlockingIOError):
            side.connect((host, port))
        await anyio.wait_writable(still(side))
        if error := side.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, "cannot connect")
    except BaseException:
        side.close()
        raise
    return side


async def pump(source: socket.socket, sink: socket.socket, look: Callable[[bytes], Awaitable[bytes]]) -> None:
    """Forward what one side sends, changed by `look`, and its end; a reset as a reset."""
    try:
        while data := await receive(source):
            await send_all(sink, await look(data))
        sink.shutdown(socket.SHUT_WR)
    except ConnectionResetError:
        close(sink, hard=True)
        close(source)
    except (OSError, anyio.ClosedResourceError):
        close(sink)
        close(source)
