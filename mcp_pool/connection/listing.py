"""What one server offers: each part listed whole, all pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import anyio
import attrs
from mcp import Client, MCPError
from mcp_types import (
    METHOD_NOT_FOUND,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    Prompt,
    Resource,
    ResourceTemplate,
    Tool,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.guard import contained
from mcp_pool._shared.log import log
from mcp_pool.config.spec import ServerSpec
from mcp_pool.config.target import Target
from mcp_pool.errors import InvalidResponse

if TYPE_CHECKING:  # loaded with the first pool
    from mcp_pool.transports.channel import Channel

MAX_PAGES: Final = 1000
"""Maximum number of pages of a listing."""
MAX_LISTING_SIZE: Final = 32 * 1024 * 1024
"""Maximum size of a listing, in characters of JSON over all pages: it is kept in memory."""
OFFER_LESS: Final = "Let the server offer less: this limit is fixed."
"""Advice for a listing that is too long."""
MAX_NAMED: Final = 10
"""Maximum number of tools that are named in the log when they are left out of a listing."""
SLOW_PART_TIMEOUT: Final = 2.0
"""Seconds that the other parts may take once the tools are listed. A server must not stay unusable because it hangs on
its prompts; what is not listed by then is listed again while the connection is in use."""

Part: TypeAlias = Literal["tools", "prompts", "resources", "resource_templates"]
"""One part of what a server offers."""
PARTS: Final[tuple[Part, ...]] = ("tools", "prompts", "resources", "resource_templates")

Definition: TypeAlias = Tool | Prompt | Resource | ResourceTemplate
"""What a server says about one thing that it offers."""
_Page: TypeAlias = ListToolsResult | ListPromptsResult | ListResourcesResult | ListResourceTemplatesResult

METHODS: Final[Mapping[Part, str]] = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resource_templates": "resources/templates/list",
}
"""The request that lists each part."""
# A refresh goes past the SDK's response cache, and replaces what is in it.
_FETCH: Final[Mapping[Part, Callable[[Client, str | None], Awaitable[_Page]]]] = {
    "tools": lambda client, cursor: client.list_tools(cursor=cursor, cache_mode="refresh"),
    "prompts": lambda client, cursor: client.list_prompts(cursor=cursor, cache_mode="refresh"),
    "resources": lambda client, cursor: client.list_resources(cursor=cursor, cache_mode="refresh"),
    "resource_templates": lambda client, cursor: client.list_resource_templates(cursor=cursor, cache_mode="refresh"),
}


@final
@attrs.frozen
class Listing:
    """One part of what a server offers, all pages."""

    definitions: Mapping[str, Definition] = attrs.field(factory=dict[str, Definition])
    """By the server's own name, URI or URI template, in the server's order."""
    ttl: float = attrs.field(default=0.0, eq=False)
    """Seconds after which it should be listed again; 0 if the server did not say."""


Listings: TypeAlias = Mapping[Part, Listing | BaseException]
"""Parts that were listed, or why they could not be."""


def is_offered(name: str, spec: ServerSpec) -> bool:
    """Return whether the filters of a spec include a tool."""
    return _matches(name, spec.include_tools) and not _matches(name, spec.exclude_tools)


def parts_of(client: Client) -> tuple[Part, ...]:
    """Return the parts that a server offers, according to its capabilities.

    If `mode` is a protocol version, the SDK does not ask for them; then it may offer any.
    """
    if client.mode in MODERN_PROTOCOL_VERSIONS and client.prior_discover is None:
        return PARTS
    declared = client.server_capabilities
    capabilities = (declared.tools, declared.prompts, declared.resources, declared.resources)
    return tuple(part for part, capability in zip(PARTS, capabilities, strict=True) if capability is not None)


async def list_all(client: Client, channel: Channel, target: Target) -> Listings:
    """List everything that a server offers, in parallel. A part without the capability is empty.

    Args:
        client: A connected client.
        channel: Its channel.
        target: The server, with its filters.

    Returns:
        Each part, or why it could not be listed. The tools are always listed.

    Raises:
        Exception: The tools could not be listed; see `list_part`.
    """
    listings: dict[Part, Listing | BaseException] = {part: Listing() for part in PARTS}
    offered = parts_of(client)
    async with anyio.create_task_group() as group:
        for part in offered:
            if part != "tools":
                listings[part] = TimeoutError("it was not listed in time")
                group.start_soon(_list_beside, client, channel, target, part, listings)
        if "tools" in offered:
            try:
                listings["tools"] = await contained(list_part, client, target, "tools")
            except Exception as error:  # noqa: BLE001  # raised below: the task group would wrap it
                listings["tools"] = plain(error)
                group.cancel_scope.cancel()
        group.cancel_scope.deadline = anyio.current_time() + SLOW_PART_TIMEOUT
    if isinstance(failure := listings["tools"], BaseException):
        raise failure
    return listings


async def _list_beside(
    client: Client, channel: Channel, target: Target, part: Part, listings: dict[Part, Listing | BaseException]
) -> None:
    """List a part while the tools are listed. Its failure is recorded here, and not on the channel as theirs."""
    from mcp_pool.transports.channel import CallRecord, current_call  # noqa: PLC0415  # loaded with the first pool

    record = CallRecord(channel, anyio.CancelScope(), requests_sent=0, is_call=False)
    current_call.set(record)  # in the context of this task only
    try:
        listings[part] = await contained(list_part, client, target, part)
    except Exception as error:  # noqa: BLE001  # only this part could not be listed
        listings[part] = plain(error)
    finally:
        channel.forget(record)


async def list_part(client: Client, target: Target, part: Part) -> Listing:
    """List one part of what a server offers, all pages. It is empty if the server does not know the request.

    Args:
        client: A connected client.
        target: The server, with its filters.
        part: The part.

    Raises:
        InvalidResponse: The listing is too long, or does not end.
        mcp.MCPError: The server answered with an error.
    """
    definitions: dict[str, Definition] = {}
    lifetimes: list[float] = []
    cursor: str | None = None
    seen: set[str] = set()
    size, what = 0, part.replace("_", " ")
    for _ in range(MAX_PAGES):
        try:
            page = await _FETCH[part](client, cursor)
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND and cursor is None:
                return Listing()
            raise
        size += len(page.model_dump_json())
        if size > MAX_LISTING_SIZE:
            raise _endless(target.server_id, f"lists more than {MAX_LISTING_SIZE} characters of {what}", OFFER_LESS)
        definitions.update((key, item) for key, item in _items(page) if part != "tools" or is_offered(key, target.spec))
        if page.ttl_ms:
            lifetimes.append(page.ttl_ms / 1000)
        cursor = page.next_cursor
        if cursor is None:
            return Listing(definitions, min(lifetimes, default=0.0))
        if cursor in seen:
            raise _endless(target.server_id, f"answers {METHODS[part]} with the same cursor twice")
        seen.add(cursor)
    raise _endless(target.server_id, f"lists more than {MAX_PAGES} pages of {what}", OFFER_LESS)


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


def _items(page: _Page) -> Iterator[tuple[str, Definition]]:
    """Yield what is on a page, by the server's own names, URIs or URI templates."""
    match page:
        case ListToolsResult():
            yield from ((tool.name, tool) for tool in page.tools)
        case ListPromptsResult():
            yield from ((prompt.name, prompt) for prompt in page.prompts)
        case ListResourcesResult():
            yield from ((str(resource.uri), resource) for resource in page.resources)
        case _:
            yield from ((template.uri_template, template) for template in page.resource_templates)


def _endless(server_id: str, what: str, advice: str = "Fix the server.") -> InvalidResponse:
    reason = f"Server {server_id!r} {what}."
    return InvalidResponse(reason, advice=advice, server_id=server_id, phase="list")


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
