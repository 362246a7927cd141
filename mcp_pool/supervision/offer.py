"""What one server offers, as entries of the catalog, and how two offers differ."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Final, TypeVar, final

import attrs

from mcp_pool.supervision.entries import CatalogEntry, PromptEntry, ResourceEntry, ResourceTemplateEntry, ToolEntry
from mcp_pool.supervision.events import CatalogChanged

_KeyT = TypeVar("_KeyT", bound=Hashable)
_EntryT = TypeVar("_EntryT", bound=CatalogEntry)


@final
@attrs.frozen
class Offer:
    """What one server offers. Replaced as a whole, so that a reader in another thread never sees half a change."""

    tools: Mapping[str, ToolEntry] = attrs.field(factory=dict[str, ToolEntry])
    """By catalog name."""
    prompts: Mapping[str, PromptEntry] = attrs.field(factory=dict[str, PromptEntry])
    """By catalog name."""
    resources: Mapping[tuple[str, str], ResourceEntry] = attrs.field(factory=dict[tuple[str, str], ResourceEntry])
    """By server id and URI."""
    resource_templates: Mapping[tuple[str, str], ResourceTemplateEntry] = attrs.field(
        factory=dict[tuple[str, str], ResourceTemplateEntry]
    )
    """By server id and URI template."""
    held: Mapping[str, ToolEntry] = attrs.field(factory=dict[str, ToolEntry])
    """Tools that wait for approval, by catalog name."""

    def change_to(self, new: Offer, server_id: str) -> CatalogChanged | None:
        """Return the event that tells of a change from this to another offer; None if nothing changes."""
        event = CatalogChanged(
            server_id,
            added=(
                *_added(self.tools, new.tools),
                *_added(self.prompts, new.prompts),
                *_added(self.resources, new.resources),
                *_added(self.resource_templates, new.resource_templates),
            ),
            removed=(
                *_added(new.tools, self.tools),
                *_added(new.prompts, self.prompts),
                *_added(new.resources, self.resources),
                *_added(new.resource_templates, self.resource_templates),
            ),
            changed=(
                *_changed(self.tools, new.tools),
                *_changed(self.prompts, new.prompts),
                *_changed(self.resources, new.resources),
                *_changed(self.resource_templates, new.resource_templates),
            ),
            held=tuple(entry for name, entry in new.held.items() if self.held.get(name) != entry),
        )
        return event if event.added or event.removed or event.changed or event.held else None


NOTHING: Final = Offer()
"""An empty offer."""


def _added(old: Mapping[_KeyT, _EntryT], new: Mapping[_KeyT, _EntryT]) -> Iterator[_EntryT]:
    return (entry for key, entry in new.items() if key not in old)


def _changed(old: Mapping[_KeyT, _EntryT], new: Mapping[_KeyT, _EntryT]) -> Iterator[tuple[_EntryT, _EntryT]]:
    return ((old[key], entry) for key, entry in new.items() if key in old and old[key] != entry)
