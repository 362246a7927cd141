"""One server of a pool: its id, its spec, and its limits with the pool's defaults filled in."""

from __future__ import annotations

from typing import final

import attrs

from mcp_pool._shared.guard import words_of
from mcp_pool._shared.redaction import Redactor
from mcp_pool.config.callbacks import ClientCallbacks
from mcp_pool.config.servers import ServerConfig
from mcp_pool.config.settings import Limits, Settings, resolve
from mcp_pool.config.spec import ServerSpec
from mcp_pool.config.validation import instance_problems, is_mapping, kind_of, kind_problems, reject
from mcp_pool.errors import ConfigError


@final
@attrs.frozen(eq=False, repr=False)
class Target:
    """What is needed to connect to a server, to call it, and to write about it."""

    server_id: str
    """Its id in the pool."""
    spec: ServerConfig
    """What to connect to."""
    limits: Limits
    """Its limits, with the pool's defaults filled in."""
    redactor: Redactor
    """Removes its secrets from texts and errors."""

    @classmethod
    def of(cls, settings: Settings, server_id: str, spec: ServerConfig) -> Target:
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


def check(server_id: object, spec: object) -> None:
    """Raise `ConfigError` if the id is invalid, or the spec is not a spec or has become invalid."""
    if not isinstance(server_id, str) or not server_id or not server_id.isprintable():
        problem = ("server_id", f"must be a non-empty printable string, not {server_id!r}")
        raise ConfigError(f"{' '.join(problem)}.", problems=[problem])
    if isinstance(spec, ServerSpec):
        problems = spec.current_problems()
    else:
        rule = "must be a StdioServer, HttpServer, SseServer or InProcessServer"
        problems = kind_problems("config", spec, ServerSpec, rule)
    reject(f"server {server_id!r}", problems, server_id=server_id)


def check_all(servers: object) -> dict[str, ServerConfig]:
    """Return a copy of the servers given to a pool, or raise `ConfigError`."""
    if servers is None:
        return {}
    if not is_mapping(servers):
        problem = ("servers", f"must be a mapping, not {kind_of(servers)}")
        raise ConfigError(f"MCPPool: {' '.join(problem)}.", problems=[problem])
    for server_id, spec in servers.items():
        check(server_id, spec)
    return dict(servers)
