"""One HTTP client per server, with connections, cookies, headers and credentials of its own.

The SDK's transports let an exception of one request end all of them. So the wire, which knows what each request is for,
stands in `send`: there it catches what a transport below could not, authorization flows, event hooks and decoding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeAlias, final

import anyio
import httpx2
from mcp.shared.message import SessionMessage

from mcp_pool.transports.link import Outgoing
from mcp_pool.transports.tls import context_for

REACH_TIMEOUT: Final = 10.0
"""Seconds to reach a host. An answer has no time-out here: the pool bounds the call that waits for it."""
IDLE_EXPIRY: Final = 3.0
"""Seconds after which an idle connection is dropped: well under the 5 s at which common servers drop theirs, because
a request that meets a connection being closed is lost."""
IDLE_CONNECTIONS: Final = 20
"""Idle connections that are kept for the next calls."""

current_message: Final[ContextVar[Outgoing | None]] = ContextVar("mcp_pool_current_message", default=None)
"""The message that is being sent, with the record of its call. The SDK's transports send in the writer's context."""

Forward: TypeAlias = Callable[[httpx2.Request], Awaitable[httpx2.Response]]
"""Sends a request over the network, with authorization."""


class Wire(Protocol):
    """Knows what each request is for, and what its failure means."""

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Forward a request, in the place of the client's own `send`."""
        ...


class Stream(Protocol):
    """Where the SDK's transport takes messages."""

    async def send(self, item: SessionMessage, /) -> None:
        """Hand over a message, in the writer's context."""
        ...

    async def aclose(self) -> None:
        """Close the stream."""
        ...


@final
class Outbox:
    """Hands messages to the SDK's transport in a context that tells which message a request carries."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, item: Outgoing, /) -> None:
        """Hand over a message with the record of its call."""
        message, record = item
        if record is not None:
            record.sent += 1
        token = current_message.set(item)
        try:
            await self._stream.send(message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if record is not None:
                record.sent -= 1  # the SDK's transport has gone: nobody took it
            raise
        finally:
            current_message.reset(token)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


@final
class _Unused(httpx2.AsyncBaseTransport):
    """Stands where a client that only delegates would make connections of its own."""


@final
class ServerHttpClient(httpx2.AsyncClient):
    """The client of one connection to one server.

    Args:
        url: The server's.
        wire: What `send` goes through.
        headers: Sent with each request.
        auth: Authorizes each request.
        lender: A client of the user's that requests are delegated to, and that is never closed; or None.
    """

    def __init__(
        self,
        url: str,
        wire: Wire,
        *,
        headers: Mapping[str, str] | None,
        auth: httpx2.Auth | None,
        lender: httpx2.AsyncClient | None,
    ) -> None:
        timeout = httpx2.Timeout(None, connect=REACH_TIMEOUT)
        if lender is None:
            # No limit of connections: calls and streams that last must not starve each other.
            limits = httpx2.Limits(
                max_connections=None, max_keepalive_connections=IDLE_CONNECTIONS, keepalive_expiry=IDLE_EXPIRY
            )
            context = context_for(httpx2.URL(url), goes_elsewhere=auth is not None)
            super().__init__(headers=headers, auth=auth, verify=context, limits=limits, timeout=timeout)
        else:
            super().__init__(transport=_Unused(), max_redirects=lender.max_redirects, timeout=timeout)
        self._wire = wire
        self._given_headers = headers
        self._given_auth = auth
        self._lender = lender

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """Make a request; where there is a lender, as the lender would, with the headers of this server on top."""
        if self._lender is None:
            request = super().build_request(method, url, **options)
        else:
            headers = httpx2.Headers(self._given_headers)
            headers.update(options.pop("headers", None))
            request = self._lender.build_request(method, url, headers=headers, **options)
        request.extensions = {**request.extensions, "timeout": self.timeout.as_dict()}
        return request

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request the way the wire does."""

        async def forward(request: httpx2.Request) -> httpx2.Response:
            if self._lender is None:
                return await super(ServerHttpClient, self).send(request, **options)
            if self._given_auth is not None:
                options["auth"] = self._given_auth
            return await self._lender.send(request, **options)

        return await self._wire.send(request, forward)
