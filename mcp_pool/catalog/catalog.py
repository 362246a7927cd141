"""The merged views of what all servers offer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar, final

import attrs

from mcp_pool.catalog.view import CatalogView
from mcp_pool.connection.listing import Part
from mcp_pool.errors import UnknownPrompt, UnknownTool
from mcp_pool.supervision.entries import CatalogEntry, PromptEntry, ResourceEntry, ResourceTemplateEntry, ToolEntry
from mcp_pool.supervision.names import may_belong_to
from mcp_pool.supervision.offer import Offer
from mcp_pool.supervision.offering import held_error
from mcp_pool.supervision.registry import Registry
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.supervisor import Supervisor

_KeyT = TypeVar("_KeyT", bound=Hashable)
_EntryT = TypeVar("_EntryT", bound=CatalogEntry)


@final
@attrs.frozen(eq=False, repr=False)
class _Cached(Generic[_KeyT, _EntryT]):
    """A view, and the registry that it comes from. Replaced as a whole, for readers in other threads."""

    registry: Registry
    view: CatalogView[_KeyT, _EntryT]


@final
@attrs.define(eq=False, repr=False)
class _Merged(Generic[_KeyT, _EntryT]):
    """The entries of one kind, merged when somebody looks, and kept until one of them changes."""

    _supervisor: Supervisor
    _kind: type[CatalogEntry]
    _part: Callable[[Offer], Mapping[_KeyT, _EntryT]]
    """Returns the entries of this kind of one server."""
    _cached: _Cached[_KeyT, _EntryT] | None = attrs.field(default=None, init=False)

    @property
    def view(self) -> CatalogView[_KeyT, _EntryT]:
        """The current view."""
        registry, cached = self._supervisor.registry, self._cached
        # Read before the rows: a change while another thread merges must make that merge outdated.
        version = registry.versions.get(self._kind, 0)
        if cached is not None and cached.registry is registry and cached.view.version == version:
            return cached.view
        entries: dict[_KeyT, _EntryT] = {}
        for row in registry.rows.values():
            entries.update(self._part(row.offer))
        view = CatalogView(version, entries)
        self._cached = _Cached(registry, view)
        return view


@final
@attrs.define(eq=False, repr=False)
class Catalog:
    """What all current servers offer."""

    _supervisor: Supervisor
    _tools: _Merged[str, ToolEntry] = attrs.field(init=False)
    _prompts: _Merged[str, PromptEntry] = attrs.field(init=False)
    _resources: _Merged[tuple[str, str], ResourceEntry] = attrs.field(init=False)
    _templates: _Merged[tuple[str, str], ResourceTemplateEntry] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tools = _Merged(self._supervisor, ToolEntry, lambda offer: offer.tools)
        self._prompts = _Merged(self._supervisor, PromptEntry, lambda offer: offer.prompts)
        self._resources = _Merged(self._supervisor, ResourceEntry, lambda offer: offer.resources)
        self._templates = _Merged(self._supervisor, ResourceTemplateEntry, lambda offer: offer.resource_templates)

    @property
    def tools(self) -> CatalogView[str, ToolEntry]:
        """The tools on offer by catalog name, without those of servers that have failed."""
        return self._tools.view

    @property
    def prompts(self) -> CatalogView[str, PromptEntry]:
        """The prompts, likewise."""
        return self._prompts.view

    @property
    def resources(self) -> CatalogView[tuple[str, str], ResourceEntry]:
        """The resources by server id and URI, likewise."""
        return self._resources.view

    @property
    def resource_templates(self) -> CatalogView[tuple[str, str], ResourceTemplateEntry]:
        """The resource templates by server id and URI template, likewise."""
        return self._templates.view

    def find_tool(self, name: str) -> ToolEntry | Row:
        """Return the tool with this name, or else the row of a server not listed yet that may offer it.

        Of several such servers, one that is still trying to connect is preferred. Tools of servers that have failed are
        found as well, so that a call can say why its server is unavailable.

        Raises:
            ToolHeld: The tool waits for approval.
            UnknownTool: No entry has this name, and no unlisted server may offer it.
        """
        if (entry := self.tools.get(name)) is not None:
            return entry
        rows = self._supervisor.registry.rows.values()
        for offer in (row.offering.offer for row in rows):
            if (held := offer.held.get(name)) is not None:
                raise held_error(held)
            if (known := offer.tools.get(name)) is not None:
                return known
        if (row := self._unlisted("tools", name)) is not None:
            return row
        reason = f"No server in the pool offers a tool {name!r}.{self._hints('tools', name, self.tools)}"
        raise UnknownTool(reason, advice="`pool.tools` lists all names.")

    def find_prompt(self, name: str) -> PromptEntry | Row:
        """Return the prompt with this name, or else the row of a server not listed yet; see `find_tool`.

        Raises:
            UnknownPrompt: No entry has this name, and no unlisted server may offer it.
        """
        if (entry := self.prompts.get(name)) is not None:
            return entry
        rows = self._supervisor.registry.rows.values()
        known = (row.offering.offer.prompts.get(name) for row in rows)
        if (found := next(filter(None, known), None) or self._unlisted("prompts", name)) is not None:
            return found
        reason = f"No server in the pool offers a prompt {name!r}.{self._hints('prompts', name, self.prompts)}"
        raise UnknownPrompt(reason, advice="`pool.prompts` lists all names.")

    def _unlisted(self, part: Part, name: str) -> Row | None:
        """Return the row of a server whose part has not been listed and that may offer an entry of this name."""
        rows = (row for row in self._supervisor.registry.rows.values() if part not in row.offering.listed)
        is_chosen = part == "tools" and self._supervisor.settings.name_tool is not None
        candidates = (row for row in rows if is_chosen or may_belong_to(name, row.server_id))
        return min(candidates, key=lambda row: row.is_final, default=None)

    def _hints(self, part: Part, name: str, names: Mapping[str, object]) -> str:
        """Return sentences about what may have been meant."""
        import difflib  # noqa: PLC0415  # keeps `import mcp_pool` fast: needed only for a wrong name

        rows = self._supervisor.registry.rows.items()
        close = ", ".join(map(repr, difflib.get_close_matches(name, names, n=3)))
        unlisted = ", ".join(repr(server_id) for server_id, row in rows if part not in row.offering.listed)
        later = f" The {part} of these servers are not listed yet: {unlisted}." if unlisted else ""
        return f"{f' Did you mean {close}?' if close else ''}{later}"
