"""The tools of all servers in one view: which are offered, which are stale, and which are unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.common import eventually, scripted
from mcp_pool import (
    BackingOff,
    ConfigError,
    Failed,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    UnknownTool,
    catalog_name,
)
from mcp_pool.errors import ConnectionLost
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcp_pool import ToolEntry

CALCULATOR_TOOLS = ["add", "echo", "sleep", "fail", "progress"]
LATER = RestartPolicy(initial_delay=1000, max_delay=1000)
AT_ONCE = RestartPolicy(initial_delay=0)


def own_names(tools: Mapping[str, ToolEntry], server_id: str) -> list[str]:
    """The server's own names of its tools in the catalog."""
    return [entry.name for entry in tools.values() if entry.server_id == server_id]


async def crash(pool: MCPPool, server_id: str) -> None:
    """Make a server of `misbehaving.py` exit during a call."""
    with pytest.raises(ConnectionLost):
        await pool.server(server_id).call_tool("crash")


# The merged view


async def test_the_tools_of_all_servers_are_in_one_view() -> None:
    async with MCPPool({server_id: InProcessServer(calculator()) for server_id in ("a", "b")}) as pool:
        assert list(pool.tools) == [f"{server_id}__{name}" for server_id in "ab" for name in CALCULATOR_TOOLS]


async def test_an_entry_has_the_server_and_the_definition_of_its_tool() -> None:
    async with MCPPool({"my calculator": InProcessServer(calculator())}) as pool:
        entry = pool.tools[catalog_name("my calculator", "add")]
        assert (entry.server_id, entry.name, entry.stale) == ("my calculator", "add", False)
        assert entry.tool.description == "Add two numbers."


async def test_a_tool_can_be_called_by_its_catalog_name_however_odd_its_servers_id() -> None:
    async with MCPPool({"1 / größe__": InProcessServer(calculator())}) as pool:
        result = await pool.call_tool(catalog_name("1 / größe__", "add"), {"a": 1, "b": 2})
        assert result.structured_content == {"result": 3}


async def test_the_view_is_read_only() -> None:
    async with MCPPool({"a": InProcessServer(calculator())}) as pool:
        tools: Any = pool.tools
        with pytest.raises(TypeError):
            tools["a__add"] = None


async def test_an_unchanged_view_is_not_computed_again() -> None:
    async with MCPPool({"a": InProcessServer(calculator())}) as pool:
        assert pool.tools is pool.tools


async def test_a_view_that_was_taken_does_not_change() -> None:
    async with MCPPool({"a": InProcessServer(calculator())}) as pool:
        before = pool.tools
        await pool.connect("b", InProcessServer(calculator()))
        assert own_names(before, "b") == []
        assert own_names(pool.tools, "b") == CALCULATOR_TOOLS


# Servers that connect and disconnect


async def test_a_server_that_has_never_been_listed_has_no_tools() -> None:
    async with MCPPool() as pool:
        pool.add("s", scripted("--never-answer", close_timeout=0.1))
        assert pool.tools == {}


async def test_the_tools_of_a_server_that_is_not_connected_are_stale() -> None:
    async with MCPPool({"other": InProcessServer(calculator())}) as pool:
        await pool.connect("s", scripted(restart=LATER))
        await crash(pool, "s")
        assert isinstance(pool.server("s").state, BackingOff)
        assert pool.tools["s__echo"].stale
        assert not pool.tools["other__echo"].stale


async def test_the_tools_of_a_reconnected_server_are_fresh() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", scripted(restart=AT_ONCE))
        await crash(pool, "s")
        await pool.wait_ready("s")
        assert pool.server("s").generation == 2
        assert not pool.tools["s__echo"].stale


async def test_the_tools_of_a_failed_server_are_not_offered() -> None:
    async with MCPPool({"other": InProcessServer(calculator())}) as pool:
        await pool.connect("s", scripted(restart=RestartPolicy.never()))
        await crash(pool, "s")
        assert isinstance(pool.server("s").state, Failed)
        assert own_names(pool.tools, "s") == []
        assert own_names(pool.tools, "other") == CALCULATOR_TOOLS


async def test_calling_a_tool_of_a_failed_server_says_at_once_why_it_is_unavailable() -> None:
    async with MCPPool(wait_timeout=None) as pool:
        await pool.connect("s", scripted(restart=RestartPolicy.never()))
        await crash(pool, "s")
        with pytest.raises(ServerUnavailable, match=r"'s' has failed.*exited with status 3") as caught:
            await pool.call_tool("s__echo")
        assert isinstance(caught.value.cause, ConnectionLost)


async def test_a_failed_server_that_is_restarted_offers_its_tools_again() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", scripted(restart=RestartPolicy.never()))
        await crash(pool, "s")
        await pool.server("s").restart()
        assert not pool.tools["s__echo"].stale


async def test_the_tools_of_a_server_that_was_disconnected_are_gone() -> None:
    async with MCPPool({"a": InProcessServer(calculator()), "b": InProcessServer(calculator())}) as pool:
        await pool.disconnect("a")
        assert own_names(pool.tools, "a") == []
        assert own_names(pool.tools, "b") == CALCULATOR_TOOLS
        with pytest.raises(UnknownTool):
            await pool.call_tool("a__add")


async def test_all_tools_are_gone_after_close_all() -> None:
    async with MCPPool({"a": InProcessServer(calculator())}) as pool:
        await pool.close_all()
        assert pool.tools == {}


async def test_all_tools_are_gone_after_the_block() -> None:
    async with MCPPool({"a": InProcessServer(calculator())}) as pool:
        pass
    assert pool.tools == {}


async def test_a_new_server_with_the_same_id_has_its_own_tools() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", scripted("--tools", "first"))
        await pool.disconnect("s")
        await pool.connect("s", scripted("--tools", "second"))
        assert "s__second" in pool.tools
        assert "s__first" not in pool.tools


# Unknown names


async def test_the_error_for_an_unknown_name_suggests_similar_names() -> None:
    async with MCPPool({"calc": InProcessServer(calculator())}) as pool:
        with pytest.raises(UnknownTool, match=r"'calc__ad'.*Did you mean 'calc__add'"):
            await pool.call_tool("calc__ad")


async def test_the_error_for_a_name_like_no_other_suggests_nothing() -> None:
    async with MCPPool({"calc": InProcessServer(calculator())}) as pool:
        with pytest.raises(UnknownTool) as caught:
            await pool.call_tool("zzz")
        assert "Near it" not in str(caught.value)


async def test_the_error_for_an_unknown_name_lists_servers_that_are_not_listed_yet() -> None:
    async with MCPPool() as pool:
        pool.add("slow", scripted("--never-answer", close_timeout=0.1))
        with pytest.raises(UnknownTool, match="not listed yet: 'slow'"):
            await pool.call_tool("other__echo")


async def test_a_call_waits_for_the_first_listing_of_a_server_that_may_offer_its_tool() -> None:
    name = "a server with a long name that is full of blanks, which stand for themselves in no catalog at all"
    async with MCPPool() as pool:
        for server_id in ("calc", name):
            pool.add(server_id, InProcessServer(calculator()))
            result = await pool.call_tool(catalog_name(server_id, "add"), {"a": 1, "b": 2}, timeout=15)
            assert result.structured_content == {"result": 3}


@pytest.mark.parametrize("bound", ["wait_timeout", "timeout", "disconnect"])
async def test_the_wait_for_a_first_listing_is_limited_by_wait_timeout(bound: str) -> None:
    async with MCPPool(wait_timeout=0.1 if bound == "wait_timeout" else 60) as pool, anyio.create_task_group() as group:
        pool.add("slow", scripted("--never-answer", close_timeout=0.1))
        if bound == "disconnect":
            group.start_soon(pool.disconnect, "slow")
        with pytest.raises(ServerUnavailable) as caught:
            await pool.call_tool("slow__echo", timeout=0.1 if bound == "timeout" else 60)
        assert caught.value.missing == ("slow",)


async def test_a_tool_that_the_awaited_listing_does_not_contain_is_unknown() -> None:
    async with MCPPool() as pool:
        pool.add("calc", InProcessServer(calculator()))
        with pytest.raises(UnknownTool, match="Did you mean 'calc__add'"):
            await pool.call_tool("calc__ad")


async def test_an_invalid_timeout_of_a_call_that_would_wait_is_an_error_at_once() -> None:
    async with MCPPool() as pool:
        pool.add("slow", scripted("--never-answer", close_timeout=0.1))
        with pytest.raises(ConfigError, match="timeout"):
            await pool.call_tool("slow__echo", timeout=-1)


async def test_a_servers_own_name_for_a_tool_is_not_a_catalog_name() -> None:
    async with MCPPool({"calc": InProcessServer(calculator())}) as pool:
        with pytest.raises(UnknownTool):
            await pool.call_tool("add")


async def test_the_view_follows_a_server_that_exits_by_itself() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", scripted("--die-after-handshake", 0.1, restart=LATER))
        await eventually(lambda: pool.tools["s__echo"].stale)
        assert pool.connected_count == 0
