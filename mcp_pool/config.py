"""Server specifications: frozen values that say what to connect to, and the defaults around them.

A specification is checked when it is given to the pool, where its id is known, and not when it is made: the error can
then name both the server and the field.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast, final

import attrs
from mcp import Client
from mcp.client import Transport
from mcp.server import Server as LowLevelServer
from mcp.server.mcpserver import MCPServer
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_pool.checks import (
    environment_problems,
    is_count,
    is_mapping,
    is_text,
    kind_problems,
    path_problems,
    string_problems,
)
from mcp_pool.errors import ConfigError
from mcp_pool.policies import RestartPolicy
from mcp_pool.settings import (
    DEFAULT,
    Default,
    Limits,
    Seconds,
    Settings,
    resolve,
    restart_problems,
    timeout_problems,
)

CLIENT_OPTIONS: Final = frozenset(
    {"cache", "client_info", "extensions", "input_required_max_rounds", "log_level", "prior_discover"}
)
"""The arguments of `mcp.Client` that are the user's; all others are the pool's own."""

MEBIBYTE: Final = 2**20


# The converters leave values of a wrong type alone: `problems` tells of them, with the server's id.


def _as_tuple(value: Sequence[str]) -> Sequence[str]:
    return tuple(value) if isinstance(value, list) else value


def _as_environment(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value


def _as_options(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value)) if is_mapping(value) else value


@attrs.frozen(kw_only=True, repr=False)
class ServerSpec:
    """What all kinds of servers have in common. Not made directly: use one of the kinds."""

    connect_timeout: Seconds = DEFAULT
    """Seconds for one dial: start, handshake and first listing."""
    call_timeout: Seconds = DEFAULT
    """Seconds of silence after which a call is given up; progress from the server starts them anew."""
    max_call_time: Seconds = DEFAULT
    """Seconds for one call as a whole."""
    close_timeout: float | Literal[Default.DEFAULT] = DEFAULT
    """Seconds for a connection to say goodbye."""
    restart: RestartPolicy | Literal[Default.DEFAULT] = DEFAULT
    """When a lost connection is made anew."""
    required: bool = False
    """Whether the pool's block opens only if this server does. For servers given to `MCPPool(servers=…)`."""
    mode: str = "auto"
    """How the protocol's era is found, as in `mcp.Client`: `"auto"`, `"legacy"`, or a modern version."""
    include_tools: Sequence[str] = attrs.field(default=("*",), converter=_as_tuple)
    """Globs of the tools that are offered, by the server's own names."""
    exclude_tools: Sequence[str] = attrs.field(default=(), converter=_as_tuple)
    """Globs of the tools that are left out, by the server's own names; stronger than `include_tools`."""
    client_options: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_as_options)
    """Handed on to `mcp.Client`: `cache`, `client_info`, `extensions`, `input_required_max_rounds`, `log_level`,
    `prior_discover`."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with this value, as pairs of a field's name and a sentence; usually nothing."""
        yield from timeout_problems(
            {name: getattr(self, name) for name in ("connect_timeout", "call_timeout", "max_call_time")}
        )
        if self.close_timeout is not DEFAULT:
            yield from timeout_problems({"close_timeout": self.close_timeout}, unbounded=False)
        if self.restart is not DEFAULT:
            yield from restart_problems(self.restart)
        yield from kind_problems("required", self.required, bool, "must be True or False")
        if self.mode not in ("auto", "legacy", *MODERN_PROTOCOL_VERSIONS):
            choices = ", ".join(("auto", "legacy", *MODERN_PROTOCOL_VERSIONS))
            yield "mode", f"must be one of {choices}, not {self.mode!r}"
        yield from string_problems("include_tools", self.include_tools, "globs")
        yield from string_problems("exclude_tools", self.exclude_tools, "globs")
        yield from _option_problems(self.client_options)

    def secrets(self) -> Iterable[str]:
        """Return the values that must never be shown."""
        return ()


@final
@attrs.frozen(repr=False)
class StdioServer(ServerSpec):
    """A server that runs as a process of its own and speaks over its standard input and output."""

    command: str
    """The program to run; found along PATH."""
    args: Sequence[str] = attrs.field(default=(), converter=_as_tuple)
    """Its arguments. Never shown."""
    env: Mapping[str, str] | None = attrs.field(default=None, kw_only=True, converter=_as_environment)
    """Environment variables, merged over the SDK's short list of safe ones (not over `os.environ`). Never shown."""
    cwd: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    """The working directory; None: that of this program."""
    max_message_size: int = attrs.field(default=16 * MEBIBYTE, kw_only=True)
    """The longest line, in bytes, that the server may send; a longer one ends the connection."""

    def __repr__(self) -> str:
        return f"StdioServer({self.command!r})"

    def problems(self) -> Iterator[tuple[str, str]]:
        """See `ServerSpec.problems`."""
        if not is_text(self.command) or not self.command.strip():
            yield "command", "must be the name or path of a program, a string that is not empty"
        yield from string_problems("args", self.args, "arguments")
        if self.env is not None:
            yield from environment_problems(self.env)
        if self.cwd is not None:
            yield from path_problems("cwd", self.cwd)
        if not is_count(self.max_message_size, least=1):
            yield "max_message_size", f"must be a number of bytes of at least 1, not {self.max_message_size!r}"
        # A class with slots is made anew by attrs, so super() without arguments would look for the first one.
        yield from ServerSpec.problems(self)

    def secrets(self) -> Iterable[str]:
        """See `ServerSpec.secrets`."""
        return (self.env or {}).values()


@final
@attrs.frozen(repr=False)
class InProcessServer(ServerSpec):
    """A server that is an object of this program."""

    server: LowLevelServer[Any] | MCPServer = attrs.field(eq=id)
    """The server; two specifications are equal only if they name the same object."""

    def __repr__(self) -> str:
        return f"InProcessServer({type(self.server).__name__})"

    def problems(self) -> Iterator[tuple[str, str]]:
        """See `ServerSpec.problems`."""
        yield from kind_problems(
            "server", self.server, (LowLevelServer, MCPServer), "must be an mcp Server or MCPServer"
        )
        yield from ServerSpec.problems(self)


ServerConfig: TypeAlias = StdioServer | InProcessServer
"""A specification of any kind."""


def limits(settings: Settings, spec: ServerConfig) -> Limits:
    """Return what holds for one server: its own settings, and the pool's where it has none."""
    return Limits(
        connect_timeout=resolve(spec.connect_timeout, settings.connect_timeout),
        call_timeout=resolve(spec.call_timeout, settings.call_timeout),
        max_call_time=resolve(spec.max_call_time, settings.max_call_time),
        close_timeout=resolve(spec.close_timeout, settings.close_timeout),
        restart=resolve(spec.restart, settings.restart),
    )


def check(server_id: object, spec: object) -> None:
    """Raise `ConfigError`, naming the id and the field, when an id or a specification is not legal."""
    if not isinstance(server_id, str) or not server_id or not server_id.isprintable():
        raise ConfigError(
            f"server_id must be a printable string that is not empty, not {server_id!r}.", field="server_id"
        )
    if not isinstance(spec, ServerSpec):
        raise ConfigError(
            f"server {server_id!r}: config must be a StdioServer or InProcessServer, not a {type(spec).__name__}.",
            server_id=server_id,
            field="config",
        )
    for field, problem in spec.problems():
        raise ConfigError(f"server {server_id!r}: {field} {problem}.", server_id=server_id, field=field)


def check_all(servers: object) -> dict[str, ServerConfig]:
    """Return the servers given to a pool as a dictionary of its own, or raise `ConfigError` for the first mistake."""
    if servers is None:
        return {}
    if not is_mapping(servers):
        raise ConfigError(f"MCPPool: servers must be a mapping, not a {type(servers).__name__}.", field="servers")
    for server_id, spec in servers.items():
        check(server_id, spec)
    return dict(servers)


def _option_problems(options: object) -> Iterator[tuple[str, str]]:
    if not is_mapping(options):
        yield "client_options", f"must be a mapping, not a {type(options).__name__}"
        return
    if foreign := sorted(str(key) for key in options if key not in CLIENT_OPTIONS):
        yield "client_options", f"has {', '.join(foreign)}; allowed are {', '.join(sorted(CLIENT_OPTIONS))}"
        return
    try:
        # A client that is never entered: its constructor is what knows the rules of its options.
        Client(cast("Transport", nullcontext()), **options)
    except (TypeError, ValueError) as error:
        yield "client_options", f"was refused by mcp.Client: {error}"
