"""`Server`, the handle on one server: requests made through it, by the server's own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp.server import Server as LowLevelServer
from mcp_types import (
    CompleteRequestParams,
    GetPromptRequestParams,
    ListToolsResult,
    PaginatedRequestParams,
    PromptReference,
    ReadResourceRequestParams,
    TextContent,
    TextResourceContents,
    Tool,
)

from helpers.calls import PROTOCOLS, answering, with_ledger, words
from helpers.common import eventually
from mcp_pool import (
    CallTimeout,
    ConfigError,
    ConnectionLost,
    InProcessServer,
    InvalidResponse,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    UnknownTool,
)
from mcp_pool.connection.listing import Listing
from servers import read_lines
from servers.bookshelf import bookshelf
from servers.in_process import calculator, raising_lifespan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SLOWLY = RestartPolicy(initial_delay=1000, max_delay=1000)
in_both_protocols = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_handle_lists_the_tools_by_the_servers_own_names(options: Sequence[str]) -> None:
    async with MCPPool({"s": answering(*options, "--pages", "3", exclude_tools=["e*"])}) as pool:
        names = {tool.name for tool in await pool.server("s").list_tools()}
        assert {"page_1", "page_2", "page_3", "pid"} <= names
        assert "echo" not in names


async def test_listing_waits_for_a_server_that_has_never_been_connected() -> None:
    async with MCPPool() as pool:
        pool.add("s", answering("--slow-start", "0.2"))
        assert "echo" in {tool.name for tool in await pool.server("s").list_tools()}


async def test_listing_a_server_that_cannot_be_connected_says_why() -> None:
    async with MCPPool({"s": InProcessServer(raising_lifespan(), restart=RestartPolicy.never())}) as pool:
        with pytest.raises(ServerUnavailable, match="the lifespan failed"):
            await pool.server("s").list_tools()


async def test_the_tools_of_a_server_are_listed_while_it_is_not_connected() -> None:
    async with MCPPool({"s": answering(restart=SLOWLY)}) as pool:
        before = await pool.server("s").list_tools()
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__crash")
        assert await pool.server("s").list_tools() == before


@in_both_protocols
async def test_a_refresh_lists_the_tools_again(mode: str) -> None:
    inner = calculator()
    async with MCPPool({"s": InProcessServer(inner, mode=mode)}) as pool:
        inner.add_tool(lambda: "new", name="latest", structured_output=False)
        assert "s__latest" not in pool.tools
        await pool.server("s").refresh()
        assert words(await pool.call_tool("s__latest")) == "new"


async def test_a_refresh_requests_each_page_once(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, "--pages", "2")}) as pool:
        await pool.server("s").refresh()
        assert sum(line["method"] == "tools/list" for line in read_lines(ledger)) == 4


async def test_a_refresh_that_fails_leaves_the_old_listing() -> None:
    inner = calculator()
    async with MCPPool({"s": InProcessServer(inner)}) as pool:
        before = dict(pool.tools)

        async def refuse(*_: Any) -> Any:
            raise MCPError(code=-32000, message="not today")

        inner._lowlevel_server.add_request_handler("tools/list", PaginatedRequestParams, refuse)
        with pytest.raises(MCPError, match="not today"):
            await pool.server("s").refresh()
        assert pool.tools == before


@in_both_protocols
async def test_a_handle_gets_prompts(mode: str) -> None:
    async with MCPPool({"s": InProcessServer(bookshelf(), mode=mode)}) as pool:
        (message,) = (await pool.server("s").get_prompt("greet", {"name": "Ada"})).messages
        assert isinstance(message.content, TextContent)
        assert message.content.text == "Say hello to Ada."


@in_both_protocols
async def test_resources_can_be_read_through_the_handle_and_the_pool(mode: str) -> None:
    async with MCPPool({"s": InProcessServer(bookshelf(), mode=mode)}) as pool:
        for result in (
            await pool.server("s").read_resource("shelf://ada"),
            await pool.read_resource("s", "shelf://ada"),
        ):
            (content,) = result.contents
            assert isinstance(content, TextResourceContents)
            assert content.text == "the books of ada"


@in_both_protocols
async def test_completions_can_be_requested_through_the_handle_and_the_pool(mode: str) -> None:
    ref, argument = PromptReference(type="ref/prompt", name="greet"), {"name": "name", "value": "A"}
    async with MCPPool({"s": InProcessServer(bookshelf(), mode=mode)}) as pool:
        plain = await pool.server("s").complete(ref, argument)
        assert plain.completion.values == ["Anna"]
        informed = await pool.complete("s", ref, argument, {"house": "Byron"})
        assert informed.completion.values == ["Anna", "Byron"]


@in_both_protocols
async def test_an_error_from_the_server_passes_through_every_method(mode: str) -> None:
    async with MCPPool({"s": InProcessServer(bookshelf(), mode=mode)}) as pool:
        server = pool.server("s")
        with pytest.raises(MCPError):
            await server.get_prompt("unknown")
        with pytest.raises(MCPError):
            await server.read_resource("unknown://")
        assert server.generation == 1


async def test_a_timeout_limits_every_method() -> None:
    async def never(*_: Any) -> Any:
        await anyio.sleep_forever()

    inner = bookshelf()
    for method, params in (
        ("prompts/get", GetPromptRequestParams),
        ("resources/read", ReadResourceRequestParams),
        ("completion/complete", CompleteRequestParams),
    ):
        inner._lowlevel_server.add_request_handler(method, params, never)
    ref = PromptReference(type="ref/prompt", name="greet")
    async with MCPPool({"s": InProcessServer(inner)}) as pool:
        server = pool.server("s")
        with pytest.raises(CallTimeout, match="the request for prompt 'greet'"):
            await server.get_prompt("greet", {"name": "Ada"}, timeout=0.05)
        with pytest.raises(CallTimeout, match="the read of resource 'shelf://ada'"):
            await server.read_resource("shelf://ada", timeout=0.05)
        with pytest.raises(CallTimeout, match="the completion request"):
            await server.complete(ref, {"name": "name", "value": "A"}, timeout=0.05)
        assert server.generation == 1


@pytest.mark.parametrize("arguments", [["name"], {1: "x"}, "name"], ids=["list", "number as key", "string"])
async def test_every_method_rejects_invalid_arguments(arguments: Any) -> None:
    ref = PromptReference(type="ref/prompt", name="greet")
    async with MCPPool({"s": InProcessServer(bookshelf())}) as pool:
        server = pool.server("s")
        with pytest.raises(ConfigError, match="'s': arguments"):
            await server.get_prompt("greet", arguments)
        with pytest.raises(ConfigError, match="'s': argument"):
            await server.complete(ref, arguments)
        with pytest.raises(ConfigError, match="'s': context"):
            await server.complete(ref, {"name": "name", "value": "A"}, arguments)


async def test_an_endless_listing_is_an_invalid_response_to_a_refresh() -> None:
    inner = calculator()
    async with MCPPool({"s": InProcessServer(inner)}) as pool:

        async def again(*_: Any) -> ListToolsResult:
            tool = Tool(name="t", input_schema={"type": "object"})
            return ListToolsResult(tools=[tool], next_cursor="again", ttl_ms=0, cache_scope="private")

        inner._lowlevel_server.add_request_handler("tools/list", PaginatedRequestParams, again)
        with pytest.raises(InvalidResponse, match="cursor"):
            await pool.server("s").refresh()


async def test_a_tool_that_is_filtered_out_cannot_be_called_by_the_servers_own_name() -> None:
    record: list[str] = []
    async with MCPPool({"s": InProcessServer(calculator(record), exclude_tools=["ech*"])}) as pool:
        with pytest.raises(UnknownTool, match="'echo' of server 's' is excluded"):
            await pool.server("s").call_tool("echo", {"text": "hello"})
        assert await pool.server("s").call_tool("add", {"a": 1, "b": 2})


async def test_a_refresh_that_waits_for_a_server_lists_after_its_first_listing() -> None:
    listings = 0

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        nonlocal listings
        listings += 1
        return ListToolsResult(tools=[Tool(name=f"listed_{listings}", input_schema={"type": "object"})])

    async with MCPPool() as pool:
        pool.add("s", InProcessServer(LowLevelServer("s", on_list_tools=list_tools)))
        await pool.server("s").refresh()  # asked for before the server was listed at all
        assert list(pool.tools) == ["s__listed_2"]


async def test_a_listing_that_started_earlier_does_not_overwrite_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    listings, holding = 0, anyio.Event()

    async def listed(*_arguments: Any) -> Listing:
        nonlocal listings
        listings += 1
        number = listings
        if number == 1:
            await holding.wait()
        return Listing({f"listed {number}": Tool(name=f"listed {number}", input_schema={"type": "object"})})

    monkeypatch.setattr("mcp_pool.calls.refresh.list_part", listed)
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.server("s").refresh)
            await eventually(lambda: listings == 1)
            await pool.server("s").refresh()
            holding.set()
        assert [entry.name for entry in pool.tools.values()] == ["listed 2"]
