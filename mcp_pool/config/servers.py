"""The specs of the kinds of servers: frozen values that say what to connect to, and what applies to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, final

import attrs
import httpx2
from mcp.server import Server as LowLevelServer
from mcp.server.mcpserver import MCPServer

from mcp_pool._shared.redaction import origin, secrets_of_basic_auth, secrets_of_header, secrets_of_url
from mcp_pool.config.spec import ServerSpec, as_strings, as_tuple
from mcp_pool.config.validation import (
    environment_problems,
    header_problems,
    is_text,
    kind_problems,
    path_problems,
    string_problems,
    url_problems,
)
from mcp_pool.errors import Problem


@final
@attrs.frozen(repr=False)
class StdioServer(ServerSpec):
    """A server that runs as a process of its own and speaks over its standard input and output.

    Attributes:
        command: The program to run; found along PATH.
        args: Its arguments. The pool does not show them; other programs can see them, so a secret belongs into `env`.
        env: Environment variables, merged over the SDK's short list of safe ones (not over `os.environ`). Never shown.
        cwd: The working directory; None: that of this program.

    The other attributes are those that all kinds have, keyword-only: see `ServerSpec`.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    command: str
    args: Sequence[str] = attrs.field(default=(), converter=as_tuple)
    env: Mapping[str, str] | None = attrs.field(default=None, kw_only=True, converter=as_strings, hash=False)
    cwd: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)

    def __repr__(self) -> str:
        return f"StdioServer({self.command!r})"

    def _problems(self) -> Iterator[Problem]:
        if not is_text(self.command) or not self.command.strip():
            yield "command", "must be the name or path of a program, a string that is not empty"
        yield from string_problems("args", self.args, "arguments")
        if self.env is not None:
            yield from environment_problems(self.env)
        if self.cwd is not None:
            yield from path_problems("cwd", self.cwd)
        yield from super()._problems()

    def secrets(self) -> Iterable[str]:
        """See `ServerSpec.secrets`."""
        return (self.env or {}).values()


@attrs.frozen(repr=False)
class UrlServer(ServerSpec):
    """What the two kinds of servers behind a URL have in common. Not made directly: use one of the kinds.

    Attributes:
        url: Where the server is, with `http` or `https`. Of it only scheme, host and port are ever shown.
        headers: Sent with each request. Values are never shown.
        auth: Authorizes each request: any `httpx2.Auth`, such as the SDK's OAuth providers. Never shown.
        http_client: A client of your own, for certificates, proxies or transports of your own. It is borrowed and never
            closed, and its connections, cookies and headers are whatever you share them with. If its transport sends
            requests again by itself, a tool may run more than once. None: one for this server alone.
    """

    url: str
    headers: Mapping[str, str] | None = attrs.field(default=None, kw_only=True, converter=as_strings, hash=False)
    auth: httpx2.Auth | None = attrs.field(default=None, kw_only=True)
    http_client: httpx2.AsyncClient | None = attrs.field(default=None, kw_only=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({origin(self.url)!r})"

    def _problems(self) -> Iterator[Problem]:
        yield from url_problems("url", self.url)
        if self.headers is not None:
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
            yield "http_client", "must be open, and was closed"

    def secrets(self) -> Iterable[str]:
        """See `ServerSpec.secrets`."""
        for name, value in (self.headers or {}).items():
            yield from secrets_of_header(name, value)
        yield from secrets_of_url(self.url)
        if isinstance(self.auth, httpx2.BasicAuth):
            yield from secrets_of_basic_auth(self.auth)


# Without a decorator of their own: they add no fields, and attrs would generate all methods again at import.


@final
class HttpServer(UrlServer):
    """A server behind a URL, over streamable HTTP, in either protocol.

    Its attributes are those of `UrlServer` and, keyword-only, those of `ServerSpec`.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    __slots__ = ()


@final
class SseServer(UrlServer):
    """A server behind a URL, over the older HTTP with SSE. It always speaks a legacy protocol, whatever `mode` says.

    The SDK takes no message of more than 1 MiB from it, even if `max_message_size` is more. Its attributes are those of
    `UrlServer` and, keyword-only, those of `ServerSpec`.

    Raises:
        ConfigError: A field is invalid; `problems` holds all of them.
    """

    __slots__ = ()


@final
@attrs.frozen(repr=False)
class InProcessServer(ServerSpec):
    """A server that is an object of this program.

    Attributes:
        server: The server; two specs are equal only if they name the same object.

    The other attributes are those that all kinds have, keyword-only: see `ServerSpec`.

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
