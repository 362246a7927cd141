"""The entries of the catalog: one thing that a server offers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from typing import Final, TypeAlias, final

import attrs
from mcp_types import Prompt, Resource, ResourceTemplate, Tool

from mcp_pool._shared.docs import with_inherited_attributes

FINGERPRINT_VERSION: Final = "1"
"""Changes when fingerprints are computed differently, so that stored ones are not taken for those of other tools."""


# Never constructed itself: letting attrs generate its methods would only slow down the import.
@attrs.frozen(init=False, eq=False, repr=False)
class _Entry:
    """What all entries have in common.

    Attributes:
        server_id: The id of the server that offers it.
        stale: Whether this is not certain to be what the server offers now: the server is not connected, or could not
            list this part of what it offers. It is looked up when it is read, and does not count in comparisons.
    """

    server_id: str
    _is_stale: Callable[[], bool] = attrs.field(alias="is_stale", eq=False, repr=False, kw_only=True)

    @property
    def stale(self) -> bool:
        """Whether this is not certain to be what the server offers now; see the class."""
        return self._is_stale()


@final
@with_inherited_attributes
@attrs.frozen
class ToolEntry(_Entry):
    """One tool in the catalog.

    Attributes:
        catalog_name: Its name in the catalog.
        name: The server's own name for it.
        tool: Its definition, as the server sent it.
        fingerprint: Identifies what a model and its user see of the tool: name, title, description, schemas and
            annotations. It begins with the version of the formula, and changes if and only if one of them does.
    """

    catalog_name: str
    name: str
    tool: Tool

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the definition; see the class."""
        return fingerprint(self.tool)


@final
@with_inherited_attributes
@attrs.frozen
class PromptEntry(_Entry):
    """One prompt in the catalog.

    Attributes:
        catalog_name: Its name in the catalog.
        name: The server's own name for it.
        prompt: Its definition, as the server sent it.
    """

    catalog_name: str
    name: str
    prompt: Prompt


@final
@with_inherited_attributes
@attrs.frozen
class ResourceEntry(_Entry):
    """One resource in the catalog.

    Attributes:
        uri: Its URI.
        resource: Its definition, as the server sent it.
    """

    uri: str
    resource: Resource


@final
@with_inherited_attributes
@attrs.frozen
class ResourceTemplateEntry(_Entry):
    """One resource template in the catalog.

    Attributes:
        uri_template: Its URI template.
        resource_template: Its definition, as the server sent it.
    """

    uri_template: str
    resource_template: ResourceTemplate


CatalogEntry: TypeAlias = ToolEntry | PromptEntry | ResourceEntry | ResourceTemplateEntry
"""An entry of any kind."""


def fingerprint(tool: Tool) -> str:
    """Return the fingerprint of a tool: the version, a colon, and a SHA-256 in hex digits.

    It covers the name, title, description, schemas and annotations, as JSON with sorted keys.
    """
    seen = tool.model_dump(
        by_alias=True,
        exclude_none=True,
        include={"name", "title", "description", "input_schema", "output_schema", "annotations"},
    )
    return digest(seen)


def digest(value: object) -> str:
    """Return the version of the formula, a colon, and the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # Half a surrogate pair can be in a name, and has no bytes of its own.
    return f"{FINGERPRINT_VERSION}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
