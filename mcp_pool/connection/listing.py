"""What one server offers, all pages, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, final

import attrs
from mcp import Client, MCPError
from mcp_types import METHOD_NOT_FOUND, Tool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_pool.config.spec import ServerSpec
from mcp_pool.config.target import Target
from mcp_pool.errors import InvalidResponse

MAX_PAGES: Final = 1000
"""Pages after which a listing is considered endless."""
MAX_LISTING_SIZE: Final = 32 * 1024 * 1024
"""Characters of JSON, of all pages together, after which a listing is considered endless: it is held in memory."""


@final
@attrs.frozen
class Inventory:
    """The tools of one server as it last listed them."""

    tools: Mapping[str, Tool] = attrs.field(factory=dict[str, Tool])
    """By the server's own names, in its order."""


def is_offered(name: str, spec: ServerSpec) -> bool:
    """Tell whether the filters of a spec let a tool of this name through."""
    return _matches(name, spec.include_tools) and not _matches(name, spec.exclude_tools)


async def take_inventory(client: Client, target: Target) -> Inventory:
    """List what a server offers, all pages. A server that does not declare the capability offers nothing.

    With a pinned version the SDK requests no capabilities and makes them up; then the tools are listed all the same.

    Args:
        client: A connected client.
        target: The server, for its filters and for the errors.

    Raises:
        InvalidResponse: The pages never end.
        mcp.MCPError: The server refused to list.
    """
    tools: dict[str, Tool] = {}
    server_id, spec = target.server_id, target.spec
    if client.server_capabilities.tools is None and not _is_made_up(client):
        return Inventory()
    cursor: str | None = None
    seen: set[str] = set()
    size = 0
    for _ in range(MAX_PAGES):
        try:
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        except MCPError as error:
            if _is_made_up(client) and error.code == METHOD_NOT_FOUND:
                return Inventory()
            raise
        size += len(page.model_dump_json())
        if size > MAX_LISTING_SIZE:
            raise _endless(server_id, f"lists more than {MAX_LISTING_SIZE} characters of tools")
        tools.update((tool.name, tool) for tool in page.tools if is_offered(tool.name, spec))
        cursor = page.next_cursor
        if cursor is None:
            return Inventory(tools)
        if cursor in seen:
            raise _endless(server_id, "answers tools/list with the same cursor again and again")
        seen.add(cursor)
    raise _endless(server_id, f"lists more than {MAX_PAGES} pages of tools")


def _endless(server_id: str, what: str) -> InvalidResponse:
    reason = f"Server {server_id!r} {what}."
    return InvalidResponse(reason, advice="Fix the server.", server_id=server_id, phase="list")


def _is_made_up(client: Client) -> bool:
    return client.mode in MODERN_PROTOCOL_VERSIONS and client.prior_discover is None


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
