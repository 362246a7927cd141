"""The merged view of what all servers offer."""

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
    """One tool in the catalog.

    Attributes:
        server_id: The id of the server that offers it.
        name: The server's own name for it.
        tool: Its definition, as the server sent it.
        stale: Whether the server is not connected now, so that this is the tool as it was last listed.
    """

    server_id: str
    name: str
    tool: Tool
    stale: bool


@final
@attrs.frozen(eq=False)
class _Merged:
    """The tools of one registry at one version of it."""

    registry: Registry
    version: int
    offered: Mapping[str, ToolEntry]
    """By catalog name."""
    failed: Mapping[str, ToolEntry]
    """The tools of servers whose automatic reconnects have stopped, by catalog name."""


@final
@attrs.define(eq=False, repr=False)
class Catalog:
    """The tools of all current servers, merged on first access and cached until something changes."""

    _supervisor: Supervisor
    _merged: _Merged | None = attrs.field(default=None, init=False)

    @property
    def tools(self) -> Mapping[str, ToolEntry]:
        """The tools on offer by catalog name, without those of servers that have failed."""
        return self._merge(self._supervisor.registry).offered

    def find(self, name: str) -> ToolEntry | Row:
        """Return the entry with this name, or else the row of a server not listed yet that may offer the tool.

        Of several such servers, one that is still trying to connect is preferred. Tools of servers that have failed are
        found as well, so that a call can say why its server is unavailable.

        Raises:
            UnknownTool: No entry has this name, and no unlisted server may offer it.
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
        import difflib  # noqa: PLC0415  # keeps `import mcp_pool` fast: needed only for a wrong name

        close = ", ".join(map(repr, difflib.get_close_matches(name, merged.offered, n=3)))
        unlisted = ", ".join(repr(i) for i, row in merged.registry.rows.items() if row.inventory is None)
        hint = f" Did you mean {close}?" if close else ""
        later = f" The tools of these servers are not listed yet: {unlisted}." if unlisted else ""
        reason = f"No server in the pool offers a tool {name!r}.{hint}{later}"
        return UnknownTool(reason, advice="`pool.tools` lists all names.")

    def _merge(self, registry: Registry) -> _Merged:
        # Read before the rows: a change while another thread merges must make that merge outdated.
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
