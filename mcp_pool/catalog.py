"""The merged view of what all servers offer: names, look-up, and what is stale."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

import attrs
from mcp_types import Tool

from mcp_pool.lifecycle import BackingOff, Connecting, Parked, Ready
from mcp_pool.registry import Registry, Row

LONGEST_NAME: Final = 64
"""The strictest limit among the model APIs."""
_MARK: Final = 9
"""The length of an underscore and eight hex digits."""
_FOREIGN: Final = re.compile(r"[^a-zA-Z0-9_-]")
_MARKED: Final = re.compile(r"_[0-9a-f]{8}\Z")


def catalog_name(server_id: str, name: str) -> str:
    """Return the name under which a server's tool is listed.

    It is `{server_id}__{name}`, made to match `^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$`. A name that had to be changed for it,
    or that another pair could have as well, ends in an underscore and eight hex digits of the SHA-256 of both. So it
    depends on nothing but the two arguments.

    Args:
        server_id: The server's id in the pool.
        name: The tool's name as its server gives it.
    """
    plain = f"{server_id}__{name}"
    clean = _clean(plain)
    ambiguous = "__" in server_id or server_id.endswith("_") or _MARKED.search(plain)
    if clean == plain and len(clean) <= LONGEST_NAME and not ambiguous:
        return clean
    digest = hashlib.sha256(f"{server_id}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{clean[: LONGEST_NAME - _MARK]}_{digest[: _MARK - 1]}"


def _clean(name: str) -> str:
    """Return a name with nothing in it that some model API refuses."""
    clean = _FOREIGN.sub("_", name)
    return clean if re.match(r"[a-zA-Z_]", clean) else "_" + clean


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
    """Whether the server is away, and this is what it offered when it was last seen."""


@final
@attrs.define(eq=False, repr=False)
class Catalog:
    """The tools of all servers of one registry, computed when somebody looks and kept until something changes."""

    _registry: Registry
    _version: int = attrs.field(default=-1, init=False)
    _offered: Mapping[str, ToolEntry] = attrs.field(factory=dict[str, ToolEntry], init=False)
    _parked: Mapping[str, ToolEntry] = attrs.field(factory=dict[str, ToolEntry], init=False)

    @property
    def tools(self) -> Mapping[str, ToolEntry]:
        """What is offered now, by catalog name: not the tools of servers that are parked."""
        self._refresh()
        return self._offered

    def find(self, name: str) -> ToolEntry | None:
        """Return the entry of a name, also that of a parked server, or None."""
        self._refresh()
        return self._offered.get(name) or self._parked.get(name)

    def awaited(self, name: str) -> Row | None:
        """Return a server that is on its way, has never been listed, and may offer a tool of this name; or None."""
        for server_id, row in self._registry.rows.items():
            on_its_way = row.inventory is None and isinstance(row.state, Connecting | BackingOff)
            if on_its_way and name.startswith(_clean(f"{server_id}__")[: LONGEST_NAME - _MARK]):
                return row
        return None

    def why_unknown(self, name: str) -> str:
        """Return a sentence for a name that was not found: what is like it, and who may offer it later."""
        import difflib  # noqa: PLC0415  # only where a name is wrong, or every program would pay for it at its start

        like = ", ".join(map(repr, difflib.get_close_matches(str(name), self.tools, n=3)))
        unlisted = ", ".join(repr(i) for i, row in self._registry.rows.items() if row.inventory is None)
        hint = f" Near it: {like}." if like else ""
        later = f" Not yet listed: the tools of {unlisted}." if unlisted else ""
        return f"No server in the pool has offered a tool {name!r}; `tools` holds the names.{hint}{later}"

    def _refresh(self) -> None:
        if self._version == self._registry.version:
            return
        offered: dict[str, ToolEntry] = {}
        parked: dict[str, ToolEntry] = {}
        for server_id, row in self._registry.rows.items():
            if row.inventory is not None:
                shelf = parked if isinstance(row.state, Parked) else offered
                stale = not isinstance(row.state, Ready)
                for name, tool in row.inventory.tools.items():
                    shelf[catalog_name(server_id, name)] = ToolEntry(server_id, name, tool, stale)
        self._offered, self._parked = MappingProxyType(offered), MappingProxyType(parked)
        self._version = self._registry.version
