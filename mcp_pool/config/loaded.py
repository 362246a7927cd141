"""A configuration file that was read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, final

import attrs

from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.servers import ServerConfig
from mcp_pool.config.settings import PoolSettings
from mcp_pool.errors import ConfigError

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""The path of a configuration file, or its content."""
Inputs: TypeAlias = Mapping[str, str] | Callable[[str], str]
"""The answers to the inputs that a file asks for, by id: a mapping, or a function of the id."""


@final
@attrs.frozen(eq=False, repr=False)
class LoadedConfig(Mapping[str, "ServerConfig | InvalidServer"]):
    """The servers of a configuration file by id: a read-only mapping for `MCPPool` and `MCPPool.apply`.

    Returned by `load_config`. Servers that are disabled are not in it.

    Attributes:
        name: The path of the file.
        settings: What the file sets for the whole pool, as arguments of `MCPPool`.
        errors: What is wrong with entries, by id; those servers are in the mapping, and fail to connect.
    """

    name: str
    _servers: Mapping[str, ServerConfig | InvalidServer]
    settings: PoolSettings

    @property
    def errors(self) -> Mapping[str, ConfigError]:
        """What is wrong with entries, by id."""
        invalid = {key: spec.error for key, spec in self._servers.items() if isinstance(spec, InvalidServer)}
        return MappingProxyType(invalid)

    def __getitem__(self, server_id: str) -> ServerConfig | InvalidServer:
        return self._servers[server_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._servers)

    def __len__(self) -> int:
        return len(self._servers)

    def __repr__(self) -> str:
        return f"<LoadedConfig {self.name!r}: {', '.join(map(repr, self._servers)) or 'no servers'}>"

    def check(self) -> None:
        """Raise one `ConfigError` for all entries that are invalid, if there are any."""
        if errors := self.errors:
            raise joined(errors, self.name)


def joined(errors: Mapping[str, ConfigError], where: str) -> ConfigError:
    """Return one error for several servers.

    Args:
        errors: Their errors by id; at least one.
        where: What they are in.
    """
    names = ", ".join(map(repr, errors))
    first = next(iter(errors.values()))
    return ConfigError(
        f"{where}: {len(errors)} invalid server{'s' if len(errors) > 1 else ''}: {names}. The first: {first.reason}",
        problems=[problem for error in errors.values() for problem in error.problems],
        details="\n".join(error.details or str(error) for error in errors.values()),
        cause=first,
    )
