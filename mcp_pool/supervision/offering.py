"""Makes the offer of one server from its listings: catalog names, a stable order, and tools that wait for approval."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Final, TypeVar, final

import attrs
from mcp_types import Prompt, Resource, ResourceTemplate, Tool

from mcp_pool._shared.guard import described, user_errors
from mcp_pool.config.settings import NameTool
from mcp_pool.config.spec import HOLD
from mcp_pool.config.target import Target
from mcp_pool.config.validation import is_text
from mcp_pool.connection.listing import Definition, Listing, Listings, Part, is_offered
from mcp_pool.errors import ConfigError, NameCollision, ToolHeld, UnknownTool
from mcp_pool.supervision.entries import CatalogEntry, PromptEntry, ResourceEntry, ResourceTemplateEntry, ToolEntry
from mcp_pool.supervision.events import CatalogChanged
from mcp_pool.supervision.names import catalog_name
from mcp_pool.supervision.offer import Offer

_KeyT = TypeVar("_KeyT", bound=Hashable)
_EntryT = TypeVar("_EntryT", bound=CatalogEntry)

EXTRA_NAMES_LIMIT: Final = 1024
"""How many names that a server no longer offers keep their place in the order. Bounded, however many come and go."""


@final
@attrs.define(eq=False, repr=False)
class Offering:
    """Makes the offer of one server from its listings."""

    target: Target
    """The server."""
    _name_tool: NameTool | None
    """Chosen by the user; None for names that cannot collide."""
    _is_stale: Callable[[Part], bool]
    """Tells whether a part is not certain to be what the server offers now."""
    _owner_of: Callable[[str], str | None]
    """Returns the id of another server that offers a tool with this catalog name."""
    tools: Mapping[str, ToolEntry] = attrs.field(factory=dict[str, ToolEntry], init=False)
    """Its tools by its own names, whether they are held or not."""
    offer: Offer = attrs.field(factory=Offer, init=False)
    """What it offers."""
    failed: frozenset[Part] = attrs.field(default=frozenset(), init=False)
    """Parts whose latest listing failed; an earlier one stays."""
    listed: frozenset[Part] = attrs.field(default=frozenset(), init=False)
    """Parts that have been listed at least once."""
    approved: Mapping[str, str] | None = attrs.field(default=None, init=False)
    """The fingerprints of approved tools by its own names; None before the first listing."""
    order: dict[Part, dict[str, None]] = attrs.field(factory=dict[Part, dict[str, None]], init=False)
    """Its own names, in the order in which they were first seen."""
    _begun: int = attrs.field(default=0, init=False)
    """How many listings have been started."""
    _numbers: dict[Part, int] = attrs.field(factory=dict[Part, int], init=False)
    """The number of the listing that each part comes from."""

    def begin_listing(self) -> int:
        """Return the number of a listing that is about to start."""
        self._begun += 1
        return self._begun

    def inherit(self, predecessor: Offering) -> None:
        """Continue, until the first listing, with what a server offered that this one replaces."""
        earlier, spec = predecessor.offer, self.target.spec
        self.approved = None if predecessor.approved is None else {**predecessor.approved, **spec.pinned}
        self.order = {part: dict(names) for part, names in predecessor.order.items()}
        self.tools = {
            name: attrs.evolve(entry, is_stale=self._stale("tools"))
            for name, entry in predecessor.tools.items()
            if is_offered(name, spec)
        }
        self.offer = attrs.evolve(
            self._with_tools(Offer()),
            prompts=self._adopted("prompts", earlier.prompts),
            resources=self._adopted("resources", earlier.resources),
            resource_templates=self._adopted("resource_templates", earlier.resource_templates),
        )

    def check(self, listings: Listings) -> None:
        """Raise what `update` would raise."""
        self._named(listings)

    def update(self, listings: Listings, number: int) -> CatalogChanged | None:
        """Take over what was listed, unless a listing that started later has been taken over already.

        Args:
            listings: What was listed. A part that could not be listed stays as it was.
            number: The number of the listing, from `begin_listing`.

        Returns:
            What has changed; None if nothing has.

        Raises:
            NameCollision: Another tool has one of the catalog names. Nothing has changed.
            ConfigError: The user's `name_tool` failed. Nothing has changed.
        """
        current: dict[Part, Listing | BaseException] = {
            part: listing for part, listing in listings.items() if number >= self._numbers.get(part, 0)
        }
        names = self._named(current)
        found: dict[Part, dict[str, Definition]] = {
            part: self._ordered(part, one) for part, one in current.items() if isinstance(one, Listing)
        }
        self._numbers.update(dict.fromkeys(current, number))
        self.listed |= found.keys()
        self.failed = (self.failed | current.keys()) - found.keys()
        before = offer = self.offer
        for part, definitions in found.items():
            offer = self._updated(offer, part, definitions, names)
        self.offer = offer
        return before.change_to(offer, self.target.server_id)

    def held(self, name: str) -> ToolEntry | None:
        """Return a tool by the server's own name if it waits for approval."""
        entry = self.tools.get(name) if self.offer.held else None
        return None if entry is None else self.offer.held.get(entry.catalog_name)

    def approve(self, name: str, fingerprint: str) -> CatalogChanged | None:
        """Approve a tool; see `Server.approve`. Returns what has changed; None if nothing has."""
        server_id = self.target.server_id
        if (entry := self.tools.get(name)) is None:
            reason = f"Server {server_id!r} offers no tool {name!r}, so there is nothing to approve."
            raise UnknownTool(reason, advice="`Server.held_tools` has the tools that are held.", server_id=server_id)
        if entry.fingerprint != fingerprint:
            raise held_error(entry, f"has the fingerprint {entry.fingerprint}, not the one that was to be approved")
        if self.approved is not None:  # else all are offered; approving one must not hold the others after `replace`
            self.approved = {**self.approved, name: fingerprint}
        before, self.offer = self.offer, self._with_tools(self.offer)
        return before.change_to(self.offer, server_id)

    def _named(self, listings: Listings) -> Mapping[str, str]:
        """Return the catalog names of listed tools by the server's own names."""
        listing, server_id = listings.get("tools"), self.target.server_id
        if not isinstance(listing, Listing):
            return {}
        if self._name_tool is None:
            return {name: catalog_name(server_id, name) for name in listing.definitions}
        own_names: dict[str, str] = {}
        for name in listing.definitions:
            chosen = self._chosen_name(self._name_tool, name)
            if chosen in own_names:
                raise _collision(chosen, server_id, name, server_id, own_names[chosen])
            if (owner := self._owner_of(chosen)) is not None:
                raise _collision(chosen, server_id, name, owner)
            own_names[chosen] = name
        return {name: chosen for chosen, name in own_names.items()}

    def _chosen_name(self, name_tool: NameTool, name: str) -> str:
        server_id, redactor = self.target.server_id, self.target.redactor
        failure: BaseException | None = None
        try:
            chosen = name_tool(server_id, name)
        except user_errors() as error:  # raised below, without what its chain must not show
            failure, chosen = error, ""
        if is_text(chosen) and chosen:
            return chosen
        what = "must return a non-empty string" if failure is None else f"raised {redactor.text(described(failure))}"
        problem = ("name_tool", f"{what} for the tool {name!r} of server {server_id!r}")
        cause = None if failure is None else redactor.error(failure)
        raise ConfigError(f"{' '.join(problem)}.", server_id=server_id, problems=[problem], cause=cause)

    def _ordered(self, part: Part, listing: Listing) -> dict[str, Definition]:
        """Return what was listed in the order in which the names were first seen."""
        order = self.order.setdefault(part, {})
        order.update(dict.fromkeys(listing.definitions))
        extra = [name for name in order if name not in listing.definitions]
        for name in extra[:-EXTRA_NAMES_LIMIT]:
            del order[name]
        return {name: listing.definitions[name] for name in order if name in listing.definitions}

    def _updated(
        self, offer: Offer, part: Part, definitions: Mapping[str, Definition], names: Mapping[str, str]
    ) -> Offer:
        """Return an offer with one part replaced."""
        server_id, is_stale = self.target.server_id, self._stale(part)
        if part == "tools":
            self.tools = {
                name: ToolEntry(server_id, names[name], name, tool, is_stale=is_stale)
                for name, tool in definitions.items()
                if isinstance(tool, Tool)
            }
            if self.approved is None and self.target.spec.on_changed == HOLD:
                self.approved = {name: entry.fingerprint for name, entry in self.tools.items()}
                self.approved |= self.target.spec.pinned
            return self._with_tools(offer)
        if part == "prompts":
            prompts = {
                (name := catalog_name(server_id, own)): PromptEntry(server_id, name, own, prompt, is_stale=is_stale)
                for own, prompt in definitions.items()
                if isinstance(prompt, Prompt)
            }
            return attrs.evolve(offer, prompts=prompts)
        if part == "resources":
            resources = {
                (server_id, uri): ResourceEntry(server_id, uri, resource, is_stale=is_stale)
                for uri, resource in definitions.items()
                if isinstance(resource, Resource)
            }
            return attrs.evolve(offer, resources=resources)
        templates = {
            (server_id, uri): ResourceTemplateEntry(server_id, uri, template, is_stale=is_stale)
            for uri, template in definitions.items()
            if isinstance(template, ResourceTemplate)
        }
        return attrs.evolve(offer, resource_templates=templates)

    def _with_tools(self, offer: Offer) -> Offer:
        """Return an offer with the current tools, held or not."""
        held: dict[str, ToolEntry] = {}
        if self.target.spec.on_changed == HOLD and (approved := self.approved) is not None:
            entries = (entry for name, entry in self.tools.items() if approved.get(name) != entry.fingerprint)
            held = {entry.catalog_name: entry for entry in entries}
        tools = {entry.catalog_name: entry for entry in self.tools.values() if entry.catalog_name not in held}
        return attrs.evolve(offer, tools=tools, held=held)

    def _stale(self, part: Part) -> Callable[[], bool]:
        return partial(self._is_stale, part)

    def _adopted(self, part: Part, entries: Mapping[_KeyT, _EntryT]) -> Mapping[_KeyT, _EntryT]:
        is_stale = self._stale(part)
        return {key: attrs.evolve(entry, is_stale=is_stale) for key, entry in entries.items()}


def held_error(entry: ToolEntry, why: str = "is held: it is new or has changed, and has not been approved") -> ToolHeld:
    """Return the error that says why a tool is not offered."""
    return ToolHeld(
        f"Tool {entry.name!r} of server {entry.server_id!r} {why}.",
        advice=f"Review its definition; then call server({entry.server_id!r}).approve({entry.name!r}, fingerprint).",
        server_id=entry.server_id,
        fingerprint=entry.fingerprint,
    )


def _collision(name: str, server_id: str, tool: str, owner: str, other: str | None = None) -> NameCollision:
    first = f"a tool of server {owner!r}" if other is None else f"its tool {other!r}"
    return NameCollision(
        f"Tool {tool!r} of server {server_id!r} gets the catalog name {name!r} from name_tool, "
        f"which {first} has already.",
        advice="Let name_tool return different names, or leave one of the tools out with exclude_tools.",
        server_id=server_id,
        name=name,
        owner_id=owner,
        phase="list",
    )
