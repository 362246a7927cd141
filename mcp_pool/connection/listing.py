"""What one server offers, all pages, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, final

import attrs
from mcp import Client, MCPError
from mcp_types import METHOD_NOT_FOUND, Tool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_pool._shared.log import log
from mcp_pool.config.spec import ServerSpec
from mcp_pool.config.target import Target
from mcp_pool.errors import InvalidResponse

MAX_PAGES: Final = 1000
"""Maximum number of pages of a listing."""
MAX_LISTING_SIZE: Final = 32 * 1024 * 1024
"""Maximum size of a listing, in characters of JSON over all pages: it is kept in memory."""
FEWER_TOOLS: Final = "Let the server offer fewer tools: this limit is fixed."
"""Advice for a listing that is too long."""

MAX_NAMED: Final = 10
"""Maximum number of tools that are named in the log when they are left out of a listing."""


@final
@attrs.frozen
class Inventory:
    """What one server offers, according to its latest listing."""

    tools: Mapping[str, Tool] = attrs.field(factory=dict[str, Tool])
    """Its tools by its own names, in its own order."""


def is_offered(name: str, spec: ServerSpec) -> bool:
    """Return whether the filters of a spec include a tool."""
    return _matches(name, spec.include_tools) and not _matches(name, spec.exclude_tools)


async def take_inventory(client: Client, target: Target) -> Inventory:
    """List what a server offers, all pages. A server without the capability offers nothing.

    If `mode` is a protocol version, the SDK does not ask for the capabilities; then the tools are listed in any case.

    Args:
        client: A connected client.
        target: The server, with its filters.

    Raises:
        InvalidResponse: The listing is too long, or does not end.
        mcp.MCPError: The server answered with an error.
    """
    tools: dict[str, Tool] = {}
    server_id, spec = target.server_id, target.spec
    if client.server_capabilities.tools is None and not _lacks_capabilities(client):
        return Inventory()
    cursor: str | None = None
    seen: set[str] = set()
    size = 0
    for _ in range(MAX_PAGES):
        try:
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
        except MCPError as error:
            if _lacks_capabilities(client) and error.code == METHOD_NOT_FOUND:
                return Inventory()
            raise
        size += len(page.model_dump_json())
        if size > MAX_LISTING_SIZE:
            raise _endless(server_id, f"lists more than {MAX_LISTING_SIZE} characters of tools", FEWER_TOOLS)
        tools.update((tool.name, tool) for tool in page.tools if is_offered(tool.name, spec))
        cursor = page.next_cursor
        if cursor is None:
            return Inventory(tools)
        if cursor in seen:
            raise _endless(server_id, "answers tools/list with the same cursor twice")
        seen.add(cursor)
    raise _endless(server_id, f"lists more than {MAX_PAGES} pages of tools", FEWER_TOOLS)


def warn_of_dropped_tools(target: Target, dropped: list[tuple[str, str]]) -> None:
    """Log that tools of a server are not offered because their definitions are invalid.

    Args:
        target: The server.
        dropped: The names of the tools, and what is wrong with each.
    """
    quote = target.redactor.quote
    told = ", ".join(f"{quote(name)} ({quote(problem)})" for name, problem in dropped[:MAX_NAMED])
    more = f" and {len(dropped) - MAX_NAMED} more" if len(dropped) > MAX_NAMED else ""
    words = "Server {!r} lists tools with invalid definitions, which are left out: {}{}"
    log("WARNING", target.server_id, words, target.server_id, told, more)


def _endless(server_id: str, what: str, advice: str = "Fix the server.") -> InvalidResponse:
    reason = f"Server {server_id!r} {what}."
    return InvalidResponse(reason, advice=advice, server_id=server_id, phase="list")


def _lacks_capabilities(client: Client) -> bool:
    """Return whether the SDK did not ask the server for its capabilities."""
    return client.mode in MODERN_PROTOCOL_VERSIONS and client.prior_discover is None


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
