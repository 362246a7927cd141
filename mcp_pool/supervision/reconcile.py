"""Makes the pool hold exactly the given servers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import anyio

from mcp_pool._shared.exceptions import plain
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.loaded import joined
from mcp_pool.config.servers import ServerConfig
from mcp_pool.config.target import ServerLike, checked
from mcp_pool.config.validation import is_mapping, kind_of
from mcp_pool.errors import ConfigError, ConnectError, UnknownServer
from mcp_pool.supervision.changes import Changes
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import Closing, Connecting
from mcp_pool.supervision.supervisor import Supervisor, check_drain


async def apply(supervisor: Supervisor, servers: Mapping[str, ServerLike], drain: float) -> Changes:
    """Make the pool hold exactly these servers. See `MCPPool.apply`."""
    supervisor.check_open()
    check_drain(drain, "apply")
    specs = _specs(servers)
    async with supervisor.applying:
        supervisor.check_open()
        current = {
            server_id: row.target.spec
            for server_id, row in supervisor.registry.rows.items()
            if not isinstance(row.state, Closing)
        }
        changes = Changes(
            added=tuple(server_id for server_id in specs if server_id not in current),
            replaced=tuple(key for key, spec in specs.items() if key in current and current[key] != spec),
            removed=tuple(server_id for server_id in current if server_id not in specs),
            unchanged=tuple(key for key, spec in specs.items() if key in current and current[key] == spec),
        )
        try:
            async with anyio.create_task_group() as group:
                for server_id in changes.removed:
                    group.start_soon(supervisor.disconnect, server_id, drain)
        except BaseExceptionGroup as failures:  # the pool was closed meanwhile
            raise plain(failures) from None
        rows = [supervisor.add(server_id, specs[server_id]) for server_id in changes.added]
        for server_id in changes.replaced:
            await _replace(supervisor, server_id, specs[server_id], drain)
        with anyio.move_on_after(supervisor.settings.open_timeout):
            for row in rows:
                await _wait_until_attempted(row)
        return changes


async def _wait_until_attempted(row: Row) -> None:
    await row.changed.until(lambda: row.ended.is_set() or not isinstance(row.state, Connecting))


async def _replace(supervisor: Supervisor, server_id: str, spec: ServerConfig, drain: float) -> None:
    """Replace one server. It stays in the pool under its restart policy if it does not connect."""
    with suppress(ConnectError):
        try:
            await supervisor.replace(server_id, spec, drain)
        except UnknownServer:  # somebody else has disconnected it meanwhile
            supervisor.add(server_id, spec)


def _specs(servers: object) -> dict[str, ServerConfig]:
    """Return valid specs, or raise one `ConfigError` for all that are invalid."""
    if not is_mapping(servers):
        problem = ("servers", f"must be a mapping, not {kind_of(servers)}")
        raise ConfigError(f"apply: {' '.join(problem)}. Nothing was changed.", problems=[problem])
    specs: dict[str, ServerConfig] = {}
    errors: dict[str, ConfigError] = {}
    for server_id, config in servers.items():
        try:
            spec = checked(server_id, config)
        except ConfigError as error:
            errors[str(server_id)] = error
            continue
        if isinstance(spec, InvalidServer):
            errors[server_id] = spec.error
        else:
            specs[server_id] = spec
    if errors:
        raise joined(errors, "apply: nothing was changed")
    return specs
