"""A spec for each kind of server: frozen values that say what to connect to, and how."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from types import BuiltinMethodType, MappingProxyType, MethodType
from typing import Any, TypeAlias, final

import attrs
import httpx2
from mcp.server import Server as LowLevelServer
from mcp.server.mcpserver import MCPServer

from mcp_pool._shared.docs import with_inherited_attributes
from mcp_pool._shared.redaction import Redactor, origin, secrets_of_basic_auth, secrets_of_header, secrets_of_url
from mcp_pool.config.expanded import secrets_in
from mcp_pool.config.spec import ServerSpec, as_strings, as_tuple
from mcp_pool.config.validation import (
    environment_problems,
    header_problems,
    is_mapping,
    is_text,
    kind_problems,
    path_problems,
    string_problems,
    url_problems,
)
from mcp_pool.errors import Problem

HeadersFunction: TypeAlias = Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""A function without arguments, sync or async, that returns the headers for one HTTP request."""


def _as_headers(value: Mapping[str, str] | HeadersFunction | None) -> Mapping[str, str] | HeadersFunction | None:
    return MappingProxyType(dict(value)) if is_mapping(value) else value


def _comparison_key(value: object) -> object:
    """Return the value to compare `headers` by: a mapping's contents, or a function's identity (not its `__eq__`)."""
    if isinstance(value, MethodType | BuiltinMethodType):
        return value  # each lookup makes a new one; two are equal if they belong to the same object
    return id(value) if callable(value) else value


@final
@with_inherited_attributes
@attrs.frozen(repr=False)
class StdioServer(ServerSpec):
    """A server that the pool runs as a process, over its standard input and output.

    Attributes:
        command: The program to run; looked up on PATH.
        args: Its arguments. The pool never shows them, but other programs can see them, so put secrets in `env`.
        env: Environment variables, merged over the SDK's short list of safe ones (not over `os.environ`). Never shown.
        cwd: The working directory. Default None: that of this program.

    The inherited attributes are keyword-only.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    command: str
    args: Sequence[str] = attrs.field(default=(), converter=as_tuple)
    env: Mapping[str, str] | None = attrs.field(default=None, kw_only=True, converter=as_strings, hash=False)
    cwd: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)

    def __repr__(self) -> str:
        # A variable of a configuration file may have brought in a secret.
        return f"StdioServer({Redactor.of(secrets_in([self.command])).text(self.command)!r})"

    def _problems(self) -> Iterator[Problem]:
        if not is_text(self.command) or not self.command.strip():
            yield "command", "must be the name or path of a program, as a non-empty string"
        yield from string_problems("args", self.args, "arguments")
        if self.env is not None:
            yield from environment_problems(self.env)
        if self.cwd is not None:
            yield from path_problems("cwd", self.cwd)
        yield from super()._problems()

    def secrets(self) -> Iterable[str]:
        """See `ServerSpec.secrets`."""
        yield from (self.env or {}).values()
        yield from secrets_in((self.command, *self.args, self.cwd))


@attrs.frozen(repr=False)
class UrlServer(ServerSpec):
    """What `HttpServer` and `SseServer` have in common. Not constructed directly.

    Attributes:
        url: The server's address, with `http` or `https`. Only its scheme, host and port are ever shown.
        headers: Headers for every request, as a mapping; or a function without arguments, sync or async, that is called
            for each HTTP request and returns its headers (`HeadersFunction`). Functions are compared by identity. The
            values of headers are never shown.
        auth: Authorizes every request: any `httpx2.Auth`, such as the SDK's OAuth providers. Never shown.
        http_client: An HTTP client of your own, for custom certificates, proxies or transports. The pool never closes
            it, and its connections, cookies and headers are shared with everything else that uses it. If its transport
            retries requests, a tool may run more than once. Default None: a client that only this server uses.
    """

    url: str
    headers: Mapping[str, str] | HeadersFunction | None = attrs.field(
        default=None, kw_only=True, converter=_as_headers, eq=_comparison_key, hash=False
    )
    auth: httpx2.Auth | None = attrs.field(default=None, kw_only=True)
    http_client: httpx2.AsyncClient | None = attrs.field(default=None, kw_only=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({origin(self.url)!r})"

    def _problems(self) -> Iterator[Problem]:
        yield from url_problems("url", self.url)
        if self.headers is not None and not callable(self.headers):
            yield from header_problems(self.headers)
        if self.auth is not None:
            yield from kind_problems("auth", self.auth, httpx2.Auth, "must be an httpx2.Auth")
        if self.http_client is not None:
            yield from kind_problems(
                "http_client", self.http_client, httpx2.AsyncClient, "must be an httpx2.AsyncClient"
            )
        yield from super()._problems()

    def current_problems(self) -> Iterator[Problem]:
        """See `ServerSpec.current_problems`."""
        if self.http_client is not None and self.http_client.is_closed:
            yield "http_client", "must be open, but has been closed"

    def secrets(self) -> Iterable[str]:
        """See `ServerSpec.secrets`."""
        if self.headers is not None and not callable(self.headers):  # those of a function are learned when it returns
            for name, value in self.headers.items():
                yield from secrets_of_header(name, value)
        yield from secrets_of_url(self.url)
        yield from secrets_in([self.url])
        if isinstance(self.auth, httpx2.BasicAuth):
            yield from secrets_of_basic_auth(self.auth)


# No attrs decorator: they add no fields, and generating all methods again would slow down the import.


@final
@with_inherited_attributes
class HttpServer(UrlServer):
    """A server behind a URL, over streamable HTTP, with the modern or a legacy protocol.

    All attributes but `url` are keyword-only.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    __slots__ = ()


@final
@with_inherited_attributes
class SseServer(UrlServer):
    """A server behind a URL, over the older HTTP+SSE transport. Its protocol is always legacy, whatever `mode` says.

    The SDK accepts no message above 1 MiB from it, even if `max_message_size` is higher.

    All attributes but `url` are keyword-only.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    __slots__ = ()


@final
@with_inherited_attributes
@attrs.frozen(repr=False)
class InProcessServer(ServerSpec):
    """A server that is an object in this program.

    Attributes:
        server: The server. Two specs are equal only if they hold the same object.

    The inherited attributes are keyword-only.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    server: LowLevelServer[Any] | MCPServer = attrs.field(eq=id)

    def __repr__(self) -> str:
        return f"InProcessServer({type(self.server).__name__})"

    def _problems(self) -> Iterator[Problem]:
        kinds = (LowLevelServer, MCPServer)
        yield from kind_problems("server", self.server, kinds, "must be an mcp Server or MCPServer")
        yield from super()._problems()


ServerConfig: TypeAlias = StdioServer | HttpServer | SseServer | InProcessServer
"""A spec of any kind."""
