"""An HTTP forward proxy for `HTTP_PROXY` and `HTTPS_PROXY`, in the test's event loop; it records the requests.

    async with forward_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        ...
        assert [passed.host for passed in proxy.passed] == ["127.0.0.1"]

Any name resolves to this machine, so that tests can use hosts that do not exist. With `user` and `password`, clients
without them get 407; with `status`, every request gets that status.
"""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from servers.http_wire import listening
from servers.sockets import accept, attempt, close, pump, receive, send_all

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup


@attrs.frozen
class Passed:
    """A request that the proxy was asked to forward."""

    verb: str
    """The HTTP method; `CONNECT` for a tunnel, whose contents the proxy does not see."""
    target: str
    """The URL, or the host and port of a tunnel."""
    host: str
    port: int
    headers: dict[str, str]
    """The headers that the proxy saw, by name in lower case."""


@attrs.define(eq=False)
class ForwardProxy:
    """The proxy."""

    port: int
    group: TaskGroup
    user: str | None = None
    password: str | None = None
    status: int | None = None
    """The status for every request, or none; may be changed at any time."""
    passed: list[Passed] = attrs.Factory(list)
    """The requests, rejected or not."""
    open: set[socket.socket] = attrs.Factory(set)

    @property
    def url(self) -> str:
        """The URL for clients, with the user and password if there are any."""
        who = f"{self.user}:{self.password}@" if self.user else ""
        return f"http://{who}127.0.0.1:{self.port}"

    @property
    def credentials(self) -> str | None:
        """The required `Proxy-Authorization` header."""
        if self.user is None:
            return None
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections for ever."""
        while True:
            self.group.start_soon(self.handle, await accept(listener))

    async def handle(self, client: socket.socket) -> None:
        """Forward the only request of a connection."""
        self.open.add(client)
        server: socket.socket | None = None
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = await receive(client)
                if not piece:
                    return
                data += piece
            head, _, rest = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            passed, path = read_head(first, lines)
            self.passed.append(passed)
            if refusal := self.refusal(passed):
                await send_all(client, refusal.encode())
                return
            server = await attempt(passed.port)
            self.open.add(server)
            if passed.verb == "CONNECT":
                await send_all(client, b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # One request per connection, so that the proxy does not have to find the end of the response.
                hidden = ("proxy-", "connection:")
                kept = [line for line in lines if not line.lower().startswith(hidden)]
                request = "\r\n".join([f"{passed.verb} {path} HTTP/1.1", *kept, "Connection: close"])
                await send_all(server, request.encode("latin-1") + b"\r\n\r\n")
            await send_all(server, rest)
            async with anyio.create_task_group() as group:
                group.start_soon(pump, client, server, unchanged)
                group.start_soon(pump, server, client, unchanged)
        except (OSError, anyio.ClosedResourceError):
            pass
        finally:
            for side in (client, server):
                close(side)
            self.open -= {client, server}

    def refusal(self, passed: Passed) -> str | None:
        """The response to a request that is not forwarded."""
        if self.status is not None:
            return f"HTTP/1.1 {self.status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        if self.credentials not in (None, passed.headers.get("proxy-authorization")):
            wanted = 'Proxy-Authenticate: Basic realm="proxy"'
            return f"HTTP/1.1 407 \r\n{wanted}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        return None


def read_head(first: str, lines: list[str]) -> tuple[Passed, str]:
    """Read a request to the proxy: the request, and the path on the origin server."""
    verb, target, _version = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    place, _, path = target.removeprefix("http://").partition("/")
    host, _, port = place.partition(":")
    return Passed(verb, target, host, int(port or 80), headers), f"/{path}"


async def unchanged(data: bytes) -> bytes:
    """Forward unchanged."""
    return data


@asynccontextmanager
async def forward_proxy(user: str | None = None, password: str | None = None) -> AsyncIterator[ForwardProxy]:
    """A proxy on a free port of this machine."""
    listener = listening()
    listener.setblocking(False)
    async with anyio.create_task_group() as group:
        proxy = ForwardProxy(listener.getsockname()[1], group, user, password)
        group.start_soon(proxy.serve, listener)
        try:
            yield proxy
        finally:
            group.cancel_scope.cancel()
            for side in [listener, *proxy.open]:
                close(side)
