"""What one server offers: all pages, filters, and refreshes."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from helpers.common import scripted
from helpers.http import raw_server
from mcp_pool import (
    ConnectError,
    HttpServer,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    SseServer,
    StdioServer,
    UnknownTool,
)
from mcp_pool.errors import ConnectionLost
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from loguru import Message

    from mcp_pool import ServerConfig, ToolEntry

MODERN = "2026-07-28"
CALCULATOR_TOOLS = ["add", "echo", "sleep", "fail", "progress"]
LATER = RestartPolicy(initial_delay=1000, max_delay=1000)


def own_names(tools: Mapping[str, ToolEntry], server_id: str) -> list[str]:
    """The server's own names of its tools in the catalog."""
    return [entry.name for entry in tools.values() if entry.server_id == server_id]


async def crash(pool: MCPPool, server_id: str) -> None:
    """Make a server of `misbehaving.py` exit in the middle of a call."""
    with pytest.raises(ConnectionLost):
        await pool.server(server_id).call_tool("crash")


async def listed(config: StdioServer) -> list[str]:
    """The tools of this server that a pool offers."""
    async with MCPPool() as pool:
        await pool.connect("s", config)
        return own_names(pool.tools, "s")


async def refused(config: StdioServer) -> ConnectError:
    """The error of connecting to this server."""
    async with MCPPool() as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", config)
        assert pool.tools == {}
    return caught.value


# Filters


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, CALCULATOR_TOOLS, id="all"),
        pytest.param({"include_tools": []}, [], id="none"),
        pytest.param({"include_tools": ["add", "echo"]}, ["add", "echo"], id="some"),
        pytest.param({"include_tools": ["*e*"]}, ["echo", "sleep", "progress"], id="by a glob"),
        pytest.param({"include_tools": ["[af]*"]}, ["add", "fail"], id="by a set of letters"),
        pytest.param({"include_tools": ["ADD"]}, [], id="case counts"),
        pytest.param({"exclude_tools": ["s*", "fail"]}, ["add", "echo", "progress"], id="all but some"),
        pytest.param({"include_tools": ["a*", "e*"], "exclude_tools": ["*o"]}, ["add"], id="excluding is stronger"),
        pytest.param({"include_tools": ["calc__add"]}, [], id="by the server's own names only"),
    ],
)
async def test_globs_choose_the_tools_that_are_offered(fields: dict[str, Any], expected: list[str]) -> None:
    async with MCPPool({"calc": InProcessServer(calculator(), **fields)}) as pool:
        assert own_names(pool.tools, "calc") == expected
        assert [tool.name for tool in await pool.server("calc").list_tools()] == expected


async def test_a_tool_that_is_left_out_is_unknown() -> None:
    async with MCPPool({"calc": InProcessServer(calculator(), exclude_tools=["add"])}) as pool:
        with pytest.raises(UnknownTool):
            await pool.call_tool("calc__add", {"a": 1, "b": 2})


# Listings


@pytest.mark.parametrize("options", [(), ("--modern",)], ids=["legacy", "modern"])
async def test_all_pages_are_listed_in_order(options: tuple[str, ...]) -> None:
    names = await listed(scripted("--pages", 5, *options))
    assert [name for name in names if name.startswith("page_")] == [f"page_{n}" for n in range(1, 6)]
    assert "echo" in names


async def test_a_listing_that_repeats_a_cursor_is_an_invalid_response() -> None:
    error = await refused(scripted("--repeat-cursor"))
    assert error.phase == "list"
    assert "same cursor" in str(error)


async def test_a_listing_of_too_many_pages_is_an_invalid_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.connection.listing.MAX_PAGES", 5)
    error = await refused(scripted("--pages", 6))
    assert error.phase == "list"
    assert "more than 5 pages" in str(error)
    assert "this limit is fixed" in error.advice


async def test_a_listing_that_is_too_long_is_an_invalid_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mcp_pool.connection.listing.MAX_LISTING_SIZE", 20_000)
    assert "page_9" in await listed(scripted("--pages", 9))
    error = await refused(scripted("--pages", 900))
    assert error.phase == "list"
    assert "characters of tools" in str(error)


async def test_a_listing_of_exactly_the_maximum_number_of_pages_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.connection.listing.MAX_PAGES", 5)
    assert "page_5" in await listed(scripted("--pages", 5))


async def test_a_listing_that_fails_is_not_treated_as_empty() -> None:
    error = await refused(scripted("--fail-list"))
    assert error.phase == "list"
    assert "the list is not available" in str(error)


@pytest.mark.parametrize("options", [(), ("--modern",)], ids=["legacy", "modern"])
async def test_a_server_that_declares_no_tools_is_not_asked_for_any(options: tuple[str, ...]) -> None:
    assert await listed(scripted("--no-tools", *options)) == []


async def test_a_server_pinned_to_a_version_is_asked_for_its_tools() -> None:
    """Without a handshake, its capabilities are unknown."""
    assert "echo" in await listed(scripted("--modern", mode=MODERN))


async def test_a_server_pinned_to_a_version_may_have_no_tools() -> None:
    assert await listed(scripted("--modern", "--no-tools", mode=MODERN)) == []


async def test_a_listing_that_fails_on_a_pinned_server_is_an_error_too() -> None:
    assert "the list is not available" in str(await refused(scripted("--modern", "--fail-list", mode=MODERN)))


# Tools that break the protocol

MALFORMED = ({"name": "broken"}, {"name": "b\x1bd", "inputSchema": {"type": "array"}}, 5)
LIST_ALSO = tuple(option for tool in MALFORMED for option in ("--list-also", json.dumps(tool)))
LEFT_OUT = (
    "Server 's' lists tools with invalid definitions, which are left out: 'broken' ('inputSchema: Field required'), "
    r"'b\x1bd' (\"inputSchema.type: Input should be 'object'\"), '' ("
).replace('\\"', "'")


@asynccontextmanager
async def over(wire: str, *options: str) -> AsyncIterator[ServerConfig]:
    """A server over a wire."""
    if wire == "stdio":
        yield scripted(*options)
    else:
        async with raw_server(*options) as process:
            yield HttpServer(process.url) if wire == "http" else SseServer(process.sse_url)


@pytest.mark.parametrize(
    ("wire", "options"),
    [
        ("stdio", ()),
        ("stdio", ("--modern",)),
        ("http", ()),
        ("http", ("--modern",)),
        ("http", ("--stream",)),
        ("sse", ()),
    ],
)
async def test_a_malformed_tool_is_left_out_and_named_and_the_others_are_offered(
    wire: str, options: tuple[str, ...], record_logs: list[Message]
) -> None:
    async with over(wire, *options, *LIST_ALSO) as config, MCPPool() as pool:
        await pool.connect("s", config)
        for times in (1, 2):
            assert "s__echo" in pool.tools
            assert "broken" not in own_names(pool.tools, "s")
            told = [line.record["message"] for line in record_logs if "invalid definitions" in line]
            assert len(told) == times
            assert told[-1].startswith(LEFT_OUT)
            await pool.server("s").refresh()
        await pool.call_tool("s__echo", {"text": "on"})


async def test_of_many_malformed_tools_the_first_few_are_named(
    record_logs: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_pool.connection.listing.MAX_NAMED", 2)
    assert "echo" in await listed(scripted(*LIST_ALSO))
    (told,) = [line.record["message"] for line in record_logs if "invalid definitions" in line]
    assert told.endswith("'inputSchema.type: Input should be 'object'') and 1 more")


# Refreshes


async def test_refreshing_shows_what_a_server_offers_now() -> None:
    server = calculator()
    async with MCPPool({"calc": InProcessServer(server)}) as pool:
        server.remove_tool("fail")
        assert "calc__fail" in pool.tools
        await pool.server("calc").refresh()
        assert own_names(pool.tools, "calc") == [name for name in CALCULATOR_TOOLS if name != "fail"]


async def test_when_refreshing_fails_the_old_listing_stays() -> None:
    async with MCPPool(wait_timeout=0) as pool:
        await pool.connect("s", scripted(restart=LATER))
        await crash(pool, "s")
        with pytest.raises(ServerUnavailable):
            await pool.server("s").refresh()
        assert "s__echo" in pool.tools


async def test_listing_the_tools_of_a_server_that_is_connecting_waits_for_it() -> None:
    async with MCPPool() as pool:
        pool.add("s", scripted("--slow-start", 0.2))
        assert "echo" in [tool.name for tool in await pool.server("s").list_tools()]


async def test_listing_the_tools_of_a_disconnected_server_returns_the_last_ones() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", scripted(restart=LATER))
        await crash(pool, "s")
        assert "echo" in [tool.name for tool in await pool.server("s").list_tools()]
