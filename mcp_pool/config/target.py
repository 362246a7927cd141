"""One server of a pool: its id, its spec, and its limits with the pool's defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, final

import attrs

from mcp_pool._shared.guard import words_of
from mcp_pool._shared.redaction import Redactor
from mcp_pool.config.callbacks import ClientCallbacks
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.servers import HttpServer, InProcessServer, ServerConfig, SseServer, StdioServer
from mcp_pool.config.settings import Limits, Settings, resolve
from mcp_pool.config.validation import instance_problems, is_mapping, kind_of, reject
from mcp_pool.errors import ConfigError

ServerLike: TypeAlias = ServerConfig | InvalidServer | Mapping[str, Any]
"""Where a server is described: a spec, an entry of a configuration file, or a mapping in the form of one."""


@final
@attrs.frozen(eq=False, repr=False)
class Target:
    """What is needed to connect to a server, to call it, and to write about it."""

    server_id: str
    """Its id in the pool."""
    spec: ServerConfig | InvalidServer
    """What to connect to."""
    limits: Limits
    """Its limits, with the pool's defaults filled in."""
    redactor: Redactor
    """Removes its secrets from texts and errors."""

    @classmethod
    def of(cls, settings: Settings, server_id: str, spec: ServerConfig | InvalidServer) -> Target:
        """Fill in the pool's settings for whatever the spec leaves out.

        Raises:
            ConfigError: The pool's `callbacks` function raised, or returned something other than callbacks.
        """
        # A value that is part of the id is not masked: the id appears in every message.
        redactor = Redactor.of(spec.secrets(), shown=server_id)
        limits = Limits(
            connect_timeout=resolve(spec.connect_timeout, settings.connect_timeout),
            call_timeout=resolve(spec.call_timeout, settings.call_timeout),
            max_call_time=resolve(spec.max_call_time, settings.max_call_time),
            close_timeout=resolve(spec.close_timeout, settings.close_timeout),
            restart=resolve(spec.restart, settings.restart),
            health=resolve(spec.health, settings.health),
            callbacks=spec.callbacks.merged_with(_pool_callbacks(settings, server_id, redactor)),
        )
        return cls(server_id, spec, limits, redactor)


def _pool_callbacks(settings: Settings, server_id: str, redactor: Redactor) -> ClientCallbacks:
    """Call the pool's `callbacks` function for a server."""
    if settings.callbacks is None:
        return ClientCallbacks()
    failure: Exception | None = None
    try:
        given = settings.callbacks(server_id)
    except Exception as error:  # noqa: BLE001  # raised below, without what its chain must not show
        given, failure = None, error
    if failure is not None:
        raised = redactor.text(f"{type(failure).__name__}{words_of(failure)}")
        problem = ("callbacks", f"failed: the pool's function raised {raised}")
        reason = f"server {server_id!r}: {' '.join(problem)}."
        raise ConfigError(reason, server_id=server_id, problems=[problem], cause=redactor.error(failure))
    callbacks = ClientCallbacks() if given is None else given
    problems = instance_problems("callbacks", callbacks, ClientCallbacks)
    reject(f"server {server_id!r}", problems, server_id=server_id)
    return callbacks


def checked(server_id: object, spec: object) -> ServerConfig | InvalidServer:
    """Return the spec of a server, which may be given as a plain mapping, as in a configuration file.

    Raises:
        ConfigError: The id is invalid, or the spec is not a spec or has become invalid.
    """
    if not isinstance(server_id, str) or not server_id or not server_id.isprintable():
        problem = ("server_id", f"must be a non-empty printable string, not {server_id!r}")
        raise ConfigError(f"{' '.join(problem)}.", problems=[problem])
    if is_mapping(spec):
        from mcp_pool.config.files.load import spec_from_mapping  # noqa: PLC0415  # few programs need it

        return spec_from_mapping(server_id, spec)
    if isinstance(spec, StdioServer | HttpServer | SseServer | InProcessServer | InvalidServer):
        reject(f"server {server_id!r}", spec.current_problems(), server_id=server_id)
        return spec
    rule = "must be a StdioServer, HttpServer, SseServer or InProcessServer, or a mapping as in a configuration file"
    problem = ("config", f"{rule}, not {kind_of(spec)}")
    raise ConfigError(f"server {server_id!r}: {' '.join(problem)}.", server_id=server_id, problems=[problem])


def all_checked(servers: object) -> dict[str, ServerConfig | InvalidServer]:
    """Return a copy of the servers given to a pool, or raise `ConfigError`."""
    if servers is None:
        return {}
    if not is_mapping(servers):
        problem = ("servers", f"must be a mapping, not {kind_of(servers)}")
        raise ConfigError(f"MCPPool: {' '.join(problem)}.", problems=[problem])
    return {server_id: checked(server_id, spec) for server_id, spec in servers.items()}
