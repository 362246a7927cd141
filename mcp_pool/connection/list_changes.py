"""Which parts of what a server offers may have changed since they were listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import attrs
from mcp import Client
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ToolsListChanged
from mcp_types import (
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    ToolListChangedNotification,
)

from mcp_pool._shared.changed import Changed
from mcp_pool.connection.listing import Part

MAX_UPDATED: Final = 1024
"""How many updated URIs are collected before they are delivered, which takes one turn of the event loop."""

_CHANGED_BY: Final[dict[type, tuple[Part, ...]]] = {
    ToolsListChanged: ("tools",),
    PromptsListChanged: ("prompts",),
    ResourcesListChanged: ("resources", "resource_templates"),
    ToolListChangedNotification: ("tools",),
    PromptListChangedNotification: ("prompts",),
    ResourceListChangedNotification: ("resources", "resource_templates"),
}
"""What to list again after an event of a modern server, or a notification of a legacy one."""

_TOLD_BY: Final[dict[str, tuple[Part, ...]]] = {
    "tools_list_changed": ("tools",),
    "prompts_list_changed": ("prompts",),
    "resources_list_changed": ("resources", "resource_templates"),
}
"""What each filter of a stream of changes is about."""


@final
@attrs.define(eq=False, repr=False)
class ListChanges:
    """Collects what is to be listed again. Notifications in quick succession lead to one listing."""

    parts: set[Part] = attrs.field(factory=set[Part], init=False)
    """The parts."""
    told: frozenset[Part] = attrs.field(default=frozenset(), init=False)
    """The parts whose changes the server reports, so that their lifetimes do not matter. What it declares may be wrong:
    it can refuse to open a stream, or leave a part out."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes whoever lists them."""

    def note(self, *parts: Part) -> None:
        """Note parts that are to be listed again."""
        if parts:
            self.parts.update(parts)
            self.changed.notify()

    def note_message(self, message: object) -> None:
        """Note what an event or a notification says has changed, if it says so."""
        self.note(*_CHANGED_BY.get(type(message), ()))

    def note_refusal(self) -> None:
        """Note that the server reports no changes from now on. Some may have been missed since it last did."""
        missed, self.told = self.told, frozenset()
        self.note(*missed)

    def take(self) -> set[Part]:
        """Return the parts, and forget them."""
        taken, self.parts = self.parts, set()
        return taken


@final
@attrs.define(eq=False, repr=False)
class ResourceUpdates:
    """Collects the URIs of resources that a legacy server says have been updated."""

    uris: dict[str, None] = attrs.field(factory=dict[str, None], init=False)
    """The URIs, oldest first."""
    changed: Changed = attrs.field(factory=Changed, init=False)
    """Wakes whoever delivers them."""

    def note_message(self, message: object) -> None:
        """Note the URI in a notification of an update."""
        if isinstance(message, ResourceUpdatedNotification) and len(self.uris) < MAX_UPDATED:
            self.uris[message.params.uri] = None
            self.changed.notify()

    def take(self) -> list[str]:
        """Return the URIs, and forget them."""
        taken, self.uris = list(self.uris), {}
        return taken


def declared_changes(client: Client) -> dict[str, Any]:
    """Return the lists that a server says can change, as arguments of `mcp.Client.listen`."""
    declared = client.server_capabilities
    capabilities = {
        "tools_list_changed": declared.tools,
        "prompts_list_changed": declared.prompts,
        "resources_list_changed": declared.resources,
    }
    return {name: True for name, capability in capabilities.items() if capability and capability.list_changed}


def told_by(filters: Mapping[str, Any]) -> frozenset[Part]:
    """Return the parts whose changes are reported with these filters."""
    return frozenset(part for name, parts in _TOLD_BY.items() if filters.get(name) for part in parts)
