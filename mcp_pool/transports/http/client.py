"""One HTTP client per server, with its own connections, cookies, headers and credentials.

In the SDK's transports, an exception in one request ends all requests. So `send` goes through the wire, which knows
what each request is for and catches the exception. An HTTP transport would be too low a level for that: exceptions also
come from authorization flows, event hooks and decoding.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast, final

import anyio
import httpx2
from mcp.shared.message import SessionMessage

from mcp_pool._shared.guard import contained
from mcp_pool.config.servers import HeadersFunction
from mcp_pool.transports.channel import Channel
from mcp_pool.transports.http.authorization import Authorization
from mcp_pool.transports.http.connecting import CANNOT_CONNECT, CONNECT_TIMEOUT
from mcp_pool.transports.http.environment import PROXY_ERRORS, unusable_proxy
from mcp_pool.transports.http.headers import PROTOCOL_HEADERS, add_headers
from mcp_pool.transports.http.responses import rebuilt, unread
from mcp_pool.transports.http.tls import default_context, plaintext_context
from mcp_pool.transports.http.tls_handshakes import close_cancelled_handshakes
from mcp_pool.transports.tracked_streams import Outgoing

IDLE_EXPIRY: Final = 3.0
"""Seconds after which an idle connection is closed. Common servers close theirs after 5 s, and a request that is sent
on a connection that is being closed is lost."""
MAX_IDLE_CONNECTIONS: Final = 20
"""How many idle connections are kept for later calls."""
CREDENTIALS: Final = ("authorization", "proxy-authorization", "cookie", "mcp-session-id")
"""Headers whose values must not be shown, wherever they come from."""

current_message: Final[ContextVar[Outgoing | None]] = ContextVar("mcp_pool_current_message", default=None)
"""The message that is being sent, with the record of its call. The SDK's transports send in the sender's context."""

Forward: TypeAlias = Callable[[httpx2.Request], Awaitable[httpx2.Response]]
"""Sends a request over the network, with authorization."""


class Wire(Protocol):
    """Knows what each request is for, and what its failure means."""

    @property
    def channel(self) -> Channel:
        """The channel of this connection."""
        ...

    async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Send a request, in place of the client's own `send`."""
        ...


class Stream(Protocol):
    """The stream from which the SDK's transport receives messages."""

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message, in the sender's context."""
        ...

    async def aclose(self) -> None:
        """Close the stream."""
        ...


@final
class Outbox:
    """Passes messages to the SDK's transport, with `current_message` set in the context."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, item: Outgoing, /) -> None:
        """Pass on a message."""
        record = item.record
        if record is not None:
            record.requests_sent += 1
        token = current_message.set(item)
        try:
            await self._stream.send(item.message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            if record is not None:
                record.requests_sent -= 1  # the SDK's transport has ended, and did not receive it
            raise
        finally:
            current_message.reset(token)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


@final
class _OwnClients(httpx2.AsyncBaseTransport):
    """The pool's own clients for one server, disguised as a transport so that they are closed with `ServerHttpClient`.

    Each is created when first needed: a server that is only reached over http costs no TLS context.
    """

    def __init__(self) -> None:
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    def client(self, *, secure: bool) -> httpx2.AsyncClient:
        """Return the client for requests that may use TLS, or the one for all others.

        Raises:
            UnusableSetting: A setting in the environment cannot be used.
        """
        if secure not in self._clients:
            # No limit on connections: long calls and streams must not starve each other.
            limits = httpx2.Limits(
                max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS, keepalive_expiry=IDLE_EXPIRY
            )
            verify = default_context() if secure else plaintext_context()
            try:
                self._clients[secure] = httpx2.AsyncClient(verify=verify, limits=limits)
            except PROXY_ERRORS:
                raise unusable_proxy() from None  # the text of the error shows the URL, which may hold a password
        return self._clients[secure]

    async def aclose(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.aclose()


@final
class _BorrowedBody(httpx2.AsyncByteStream):
    """The response body from a borrowed client. Reading it runs user code, which may end with a cancellation.

    Args:
        body: The body from the client's transport.
    """

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._body)
        return self

    async def __anext__(self) -> bytes:
        return await contained(anext, self._chunks)

    async def aclose(self) -> None:
        """Close the body."""
        await contained(self._body.aclose)


@final
class ServerHttpClient(httpx2.AsyncClient):
    """The HTTP client for one connection to one server.

    Args:
        url: The server's URL. Its user and password, if any, are used when there is no other authorization.
        wire: Sends the requests.
        headers: Sent with each request, or a function that returns them.
        auth: Authorizes each request.
        borrowed_client: The user's client, which sends the requests and is never closed; None: the pool's own.

    Raises:
        UnusableSetting: A setting in the environment cannot be used.
    """

    def __init__(
        self,
        url: str,
        wire: Wire,
        *,
        headers: Mapping[str, str] | HeadersFunction | None,
        auth: httpx2.Auth | None,
        borrowed_client: httpx2.AsyncClient | None,
    ) -> None:
        self._own_clients = _OwnClients()
        super().__init__(transport=self._own_clients)
        if borrowed_client is not None:
            self.max_redirects: int = borrowed_client.max_redirects
            auth = borrowed_client.auth if auth is None else auth
        self._wire = wire
        self._given_headers = headers
        self._given_auth = _basic(httpx2.URL(url)) if auth is None else auth
        self._borrowed_client = borrowed_client
        self._client_for(httpx2.URL(url))  # fails here if a setting is unusable, and not in the SDK's transport

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """Build a request with the client that will send it, and add the headers of this server.

        The SDK passes the message as an object to encode again. An encoding error there would end its transport, so the
        message that is already encoded replaces it.
        """
        if "json" in options and (outgoing := current_message.get()) is not None:
            del options["json"]
            options["content"] = outgoing.body
            options["headers"] = {"content-type": "application/json", **(options.get("headers") or {})}
        protocol_headers = httpx2.Headers(options.pop("headers", None))
        headers = httpx2.Headers(None if callable(self._given_headers) else self._given_headers)
        headers.update(protocol_headers)
        target = httpx2.URL(url).copy_with(userinfo=b"")  # httpx2 logs the URL
        request = self._client_for(target).build_request(method, target, headers=headers, **options)
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT)
        extensions = {"timeout": timeout.as_dict(), PROTOCOL_HEADERS: frozenset(protocol_headers)}
        request.extensions = {**request.extensions, **extensions}
        return request

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request through the wire."""
        return await self._wire.send(request, partial(self._forward, **options))

    def _client_for(self, url: httpx2.URL) -> httpx2.AsyncClient:
        if self._borrowed_client is not None:
            return self._borrowed_client
        # An authorization flow may send requests to other servers.
        stays = self._given_auth is None or isinstance(self._given_auth, httpx2.BasicAuth | httpx2.DigestAuth)
        return self._own_clients.client(secure=url.scheme == "https" or not stays)

    async def _forward(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if not callable(self._given_headers):
            return await self._transmit(request, CREDENTIALS, **options)
        secret = (*CREDENTIALS, *await add_headers(request, self._given_headers))
        self._keep_secret(request.headers, secret)  # before it is sent: the server may repeat it before it responds
        return await self._transmit(request, secret, **options)

    async def _transmit(self, request: httpx2.Request, secret: Iterable[str], **options: Any) -> httpx2.Response:
        client, authorization = self._client_for(request.url), None
        if self._given_auth is not None:
            options["auth"] = authorization = Authorization(self._given_auth)
        trace = request.extensions.get("trace", _ignore)
        close_cancelled_handshakes(request)
        try:
            response = await client.send(request, **options)
        except httpx2.LocalProtocolError:
            pass  # replaced below: its text shows the invalid header
        except CANNOT_CONNECT:
            raise
        except BaseException as error:
            if authorization is None or authorization.released:
                if self._borrowed_client is not None:
                    # Its transport may not trace what it sends, so only a failure to connect proves that the server
                    # did not run the request. A cancelled request may have run.
                    await trace("borrowed_client.send_request_headers.started", {})
                if isinstance(error, httpx2.HTTPStatusError) and (returned := _response_of(error, request)) is not None:
                    return returned
            raise
        else:
            self._keep_secret(response.request.headers, secret)
            if self._borrowed_client is not None:
                response.stream = _BorrowedBody(cast("httpx2.AsyncByteStream", response.stream))
            return response
        finally:
            self._keep_secret(request.headers, secret)
        raise httpx2.LocalProtocolError("The request is not valid HTTP: see headers and auth", request=request)

    def _keep_secret(self, headers: httpx2.Headers, secret: Iterable[str]) -> None:
        """Mask the values of these headers of a request, wherever they come from."""
        for name in secret:
            if name in headers:
                self._wire.channel.learn_secret(name, headers[name])


def _response_of(error: httpx2.HTTPStatusError, request: httpx2.Request) -> httpx2.Response | None:
    """Return the server's response if a hook or a flow raised an error for its status.

    Args:
        error: The error. It may be about a response from another server; then the result is None.
        request: The request that was sent.
    """
    response = error.response
    with suppress(RuntimeError):  # user code made the response, without a request
        answered = response.request
        if response.is_success or (answered.method, answered.url) != (request.method, request.url):
            return None
        try:
            return rebuilt(response, response.content)
        except httpx2.ResponseNotRead:
            return unread(response)
    return None


def _basic(url: httpx2.URL) -> httpx2.Auth | None:
    return httpx2.BasicAuth(url.username, url.password) if url.userinfo else None


async def _ignore(_event: str, _info: object) -> None:
    """Ignore trace events: the default."""
