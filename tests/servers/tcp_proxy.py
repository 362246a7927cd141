"""A TCP proxy in the test's event loop: it forwards to a port, and disturbs connections as the test says.

    async with tcp_proxy(server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        proxy.when(b'"sixth"', "reset")         # the connection that sends these bytes, once
        ...
        proxy.refuse()                          # new connections are refused, open ones continue
        proxy.accept()                          # accept connections again, on the same port
        proxy.last.stall()                      # this one hangs

It works on sockets because an anyio stream cannot be reset.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal

import anyio
import attrs

from servers.http_wire import listening
from servers.sockets import accept, attempt, close, pump, send_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

Deed = Literal["cut", "reset", "half_close", "stall"]

REMEMBERED = 4
"""How many of the last chunks in each direction are kept per connection."""


@attrs.define
class Plan:
    """What will happen to a connection."""

    delay: float = 0.0
    """Seconds before it is forwarded."""
    deed: Deed | None = None
    """What is done to it: at once, or when one of the two following conditions holds."""
    sent: bytes | None = None
    """When the client has sent these bytes in one chunk; they are not forwarded unless `forwarded` is set."""
    received: int | None = None
    """When the server has sent this many bytes; the client gets only these."""
    forwarded: bool = False
    """Whether the server gets what the client sent."""


@attrs.define(eq=False)
class ProxiedConnection:
    """One connection through the proxy."""

    number: int
    """Counted from 1."""
    client: socket.socket
    server: socket.socket | None = None
    plan: Plan = attrs.Factory(Plan)
    sent: deque[bytes] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED))
    """The last chunks that the client sent."""
    received: int = 0
    """How many bytes the server has sent."""
    flowing: anyio.Event = attrs.Factory(anyio.Event)
    over: bool = False
    deed: Deed | None = None
    """What has been done to it."""

    def cut(self) -> None:
        """Close both sides."""
        self._close("cut", hard=False)

    def reset(self) -> None:
        """Reset both sides."""
        self._close("reset", hard=True)

    def half_close(self) -> None:
        """Half-close towards the client, and discard what the client sends."""
        self.deed = "half_close"
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)

    def stall(self) -> None:
        """Forward nothing in either direction, from now on until `resume`."""
        self.deed = "stall"
        self.flowing = anyio.Event()

    def resume(self) -> None:
        """Forward again."""
        self.deed = None
        self.flowing.set()

    def do(self, deed: Deed) -> None:
        """Do one of the above, by name."""
        getattr(self, deed)()

    def carried(self, data: bytes) -> bool:
        """Whether the client has sent these bytes recently."""
        return data in b"".join(self.sent)

    def _close(self, deed: Deed, *, hard: bool) -> None:
        if self.over:
            return
        self.over = True
        self.deed = deed
        self.flowing.set()
        for side in (self.client, self.server):
            close(side, hard=hard)


@attrs.define(eq=False)
class TcpProxy:
    """The proxy. Its methods are synchronous, and take effect at once."""

    target: int
    group: TaskGroup
    port: int = 0
    connections: list[ProxiedConnection] = attrs.Factory(list)
    """All accepted connections, in order."""
    plans: deque[Plan] = attrs.Factory(deque)
    """The plans for the next connections, one each."""
    always: Plan = attrs.Factory(Plan)
    """The plan for all other connections."""
    listener: socket.socket | None = None
    waiting: list[tuple[bytes, Deed, bool]] = attrs.Factory(list)

    @property
    def accepted(self) -> int:
        """How many connections were accepted."""
        return len(self.connections)

    @property
    def open(self) -> list[ProxiedConnection]:
        """The open connections."""
        return [connection for connection in self.connections if not connection.over]

    @property
    def last(self) -> ProxiedConnection:
        """The newest connection."""
        return self.connections[-1]

    def carrying(self, data: bytes) -> list[ProxiedConnection]:
        """The connections whose client has sent these bytes recently."""
        return [connection for connection in self.connections if connection.carried(data)]

    def next(self, *plans: Plan) -> None:
        """Set the plans for the next connections."""
        self.plans.extend(plans)

    def when(self, sent: bytes, deed: Deed, *, forwarded: bool = False) -> None:
        """Do something to the next connection whose client sends these bytes in one chunk."""
        self.waiting.append((sent, deed, forwarded))

    def refuse(self) -> None:
        """Refuse new connections; open ones continue."""
        close(self.listener)
        self.listener = None

    def accept(self) -> None:
        """Accept connections (again), on the same port."""
        if self.listener is None:
            self.listener = listening(self.port)
            self.listener.setblocking(False)
            self.port = self.listener.getsockname()[1]
            self.group.start_soon(self._serve, self.listener)

    async def _serve(self, listener: socket.socket) -> None:
        while self.listener is listener:
            try:
                client = await accept(listener)
            except (OSError, anyio.ClosedResourceError):
                return
            plan = self.plans.popleft() if self.plans else self.always
            connection = ProxiedConnection(len(self.connections) + 1, client, plan=plan)
            connection.flowing.set()
            self.connections.append(connection)
            self.group.start_soon(self._forward, connection)

    async def _forward(self, connection: ProxiedConnection) -> None:
        plan = connection.plan
        try:
            await anyio.sleep(plan.delay)
            if plan.deed and plan.sent is None and plan.received is None:
                connection.do(plan.deed)
                if plan.deed != "stall":
                    return
            await connection.flowing.wait()
            connection.server = server = await attempt(self.target)
            async with anyio.create_task_group() as group:
                group.start_soon(pump, connection.client, server, lambda data: self._going_up(connection, data))
                group.start_soon(pump, server, connection.client, lambda data: self._going_down(connection, data))
        except (OSError, anyio.ClosedResourceError):
            pass
        finally:
            connection.cut()

    async def _going_up(self, connection: ProxiedConnection, data: bytes) -> bytes:
        """Inspect what the client sends, and return what the server gets."""
        connection.sent.append(data)
        plan = connection.plan
        if plan.deed and plan.sent is not None and plan.sent in data:
            connection.plan = Plan()
            return await self._strike(connection, plan.deed, data, forwarded=plan.forwarded)
        for entry in self.waiting:
            sent, deed, forwarded = entry
            if sent in data:
                self.waiting.remove(entry)
                return await self._strike(connection, deed, data, forwarded=forwarded)
        await connection.flowing.wait()
        return data

    async def _strike(self, connection: ProxiedConnection, deed: Deed, data: bytes, *, forwarded: bool) -> bytes:
        """Carry out the plan, before or after the server gets the data, and return what it gets later."""
        if forwarded and connection.server is not None:
            await send_all(connection.server, data)
        connection.do(deed)
        await connection.flowing.wait()
        return data if deed == "stall" and not forwarded else b""

    async def _going_down(self, connection: ProxiedConnection, data: bytes) -> bytes:
        """Inspect what the server sends, and return what the client gets."""
        await connection.flowing.wait()
        plan = connection.plan
        if plan.deed and plan.received is not None and connection.received + len(data) >= plan.received:
            connection.plan = Plan()
            last = plan.received - connection.received
            connection.received += last
            await send_all(connection.client, data[:last])
            connection.do(plan.deed)
            await connection.flowing.wait()
            data = data[last:]
        connection.received += len(data)
        return b"" if connection.deed == "half_close" else data


@asynccontextmanager
async def tcp_proxy(target: int, *, port: int = 0) -> AsyncIterator[TcpProxy]:
    """A proxy on a free port to a port of this machine."""
    async with anyio.create_task_group() as group:
        proxy = TcpProxy(target, group, port)
        proxy.accept()
        try:
            yield proxy
        finally:
            proxy.refuse()
            for connection in proxy.open:
                connection.cut()
            group.cancel_scope.cancel()
