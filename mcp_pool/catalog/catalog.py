"""The merged view of what all servers offer: look-up, and what is stale."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import final

import attrs
from mcp_types import Tool

from mcp_pool.catalog.names import catalog_name, may_belong_to
from mcp_pool.errors import UnknownTool
from mcp_pool.supervision.registry import Registry
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import Failed, Ready
from mcp_pool.supervision.supervisor import Supervisor


@final
@attrs.frozen
class ToolEntry:
    """One tool in the catalog."""

    server_id: str
    """The server that offers it."""
    name: str
    """The server's own name for it."""
    tool: Tool
    """Its definition, as the server gave it."""
    stale: bool
    """Whether the server is away, and this is what it offered when it was last connected."""


@final
@attrs.frozen(eq=False)
class _Merged:
    """What the rows of one registry offered at one version of it."""

    registry: Registry
    version: int
    offered: Mapping[str, ToolEntry]
    """By catalog name."""
    failed: Mapping[str, ToolEntry]
    """What servers offered whose automatic reconnects have stopped."""


@final
@attrs.define(eq=False, repr=False)
class Catalog:
    """The tools of all current servers, merged when somebody looks and kept until something changes."""

    _supervisor: Supervisor
    _merged: _Merged | None = attrs.field(default=None, init=False)

    @property
    def tools(self) -> Mapping[str, ToolEntry]:
        """What is offered now, by catalog name: not the tools of servers that have failed."""
        return self._merge(self._supervisor.registry).offered

    def find(self, name: str) -> ToolEntry | Row:
        """Return the entry of a name; or a server that was never listed and may offer it, one that may connect first.

        The tools of a server that has failed are found as well, so that a call can say why it is unavailable.

        Raises:
            UnknownTool: There is neither.
        """
        registry = self._supervisor.registry
        merged = self._merge(registry)
        if (entry := merged.offered.get(name) or merged.failed.get(name)) is not None:
            return entry
        unlisted = (row for row in registry.rows.values() if row.inventory is None)
        for row in sorted(unlisted, key=lambda row: row.is_final):
            if may_belong_to(name, row.server_id):
                return row
        raise self._unknown(name, merged)

    def _unknown(self, name: str, merged: _Merged) -> UnknownTool:
        import difflib  # noqa: PLC0415  # only where a name is wrong, or every program would pay for it at its start

        close = ", ".join(map(repr, difflib.get_close_matches(name, merged.offered, n=3)))
        unlisted = ", ".join(repr(i) for i, row in merged.registry.rows.items() if row.inventory is None)
        hint = f" Did you mean {close}?" if close else ""
        later = f" Not listed yet: the tools of {unlisted}." if unlisted else ""
        reason = f"No server in the pool has offered a tool {name!r}.{hint}{later}"
        return UnknownTool(reason, advice="`pool.tools` holds the names.")

    def _merge(self, registry: Registry) -> _Merged:
        # Before the rows: what changes while another thread merges must make this merge an old one.
        merged, version = self._merged, registry.version
        if merged is not None and merged.registry is registry and merged.version == version:
            return merged
        offered: dict[str, ToolEntry] = {}
        failed: dict[str, ToolEntry] = {}
        for server_id, row in registry.rows.items():
            if row.inventory is not None:
                state = row.state
                entries = failed if isinstance(state, Failed) else offered
                stale = not isinstance(state, Ready)
                for name, tool in row.inventory.tools.items():
                    entries[catalog_name(server_id, name)] = ToolEntry(server_id, name, tool, stale)
        merged = _Merged(registry, version, MappingProxyType(offered), MappingProxyType(failed))
        self._merged = merged
        return merged
