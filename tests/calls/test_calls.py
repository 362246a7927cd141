"""Successful calls: names, arguments, concurrent and nested calls."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp.server.mcpserver import MCPServer
from mcp_types import TextContent

from helpers.calls import PROTOCOLS, answering, arrival, calls_of, with_ledger, words
from mcp_pool import ConfigError, InProcessServer, MCPPool, UnknownServer, UnknownTool
from servers import read_lines
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MANY = 200
"""How many calls are in flight on one connection."""


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_tool_is_called_by_its_catalog_name(options: Sequence[str]) -> None:
    async with MCPPool({"files": answering(*options)}) as pool:
        assert words(await pool.call_tool("files__echo", {"text": "hello"})) == "hello"


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_tool_is_called_by_its_own_name_through_the_server_handle(options: Sequence[str]) -> None:
    async with MCPPool({"files": answering(*options)}) as pool:
        assert words(await pool.server("files").call_tool("echo", {"text": "hello"})) == "hello"


async def test_a_sanitized_catalog_name_reaches_the_tool() -> None:
    server = MCPServer[Any]("odd", log_level="WARNING")
    server.add_tool(lambda: "found", name="päth.find", structured_output=False)
    async with MCPPool({"my server": InProcessServer(server)}) as pool:
        (name,) = pool.tools
        assert name.isascii()
        assert words(await pool.call_tool(name)) == "found"


async def test_a_tool_that_two_servers_have_is_called_on_the_named_one() -> None:
    async with MCPPool({"a": answering(), "b": answering()}) as pool:
        pids = {name: words(await pool.call_tool(f"{name}__pid")) for name in ("a", "b")}
        assert pids == {name: str(pool.snapshot().servers[name].process_id) for name in ("a", "b")}


async def test_a_tool_that_no_server_has_is_unknown_and_similar_names_are_suggested() -> None:
    async with MCPPool({"files": answering()}) as pool:
        with pytest.raises(UnknownTool, match="'files__echo'"):
            await pool.call_tool("files__ecko")


async def test_the_server_itself_answers_for_a_tool_that_it_did_not_list(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"files": with_ledger(ledger)}) as pool:
        assert "files__unlisted" not in pool.tools
        with pytest.raises(MCPError):
            await pool.server("files").call_tool("unlisted")
        assert calls_of(ledger, "unlisted") == 1


async def test_a_call_without_arguments_sends_none() -> None:
    async with MCPPool({"files": answering()}) as pool:
        assert "arguments" not in json.loads(words(await pool.call_tool("files__request")))


async def test_any_mapping_is_accepted_as_arguments() -> None:
    async with MCPPool({"files": answering()}) as pool:
        assert words(await pool.call_tool("files__echo", MappingProxyType({"text": "frozen"}))) == "frozen"


@pytest.mark.parametrize("arguments", [["text"], "text", 3], ids=["list", "string", "number"])
async def test_arguments_that_are_not_a_mapping_are_rejected_before_anything_is_sent(
    arguments: Any, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"files": with_ledger(ledger)}) as pool:
        with pytest.raises(ConfigError, match="arguments"):
            await pool.call_tool("files__echo", arguments)
    assert calls_of(ledger, "echo") == 0


@pytest.mark.parametrize("arguments", [{1: "text"}, {"text": object()}], ids=["number as key", "object as value"])
async def test_arguments_that_cannot_be_encoded_as_json_are_a_config_error(arguments: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"files": with_ledger(ledger)}) as pool:
        with pytest.raises(ConfigError, match="arguments"):
            await pool.call_tool("files__echo", arguments)
    assert calls_of(ledger, "echo") == 0


@pytest.mark.parametrize("timeout", [-1, "5", float("nan"), True], ids=repr)
async def test_an_invalid_timeout_is_rejected_before_anything_is_sent(timeout: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"files": with_ledger(ledger)}) as pool:
        with pytest.raises(ConfigError, match="timeout must be a number of seconds"):
            await pool.call_tool("files__echo", timeout=timeout)
    assert calls_of(ledger, "echo") == 0


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_meta_reaches_the_server(options: Sequence[str]) -> None:
    async with MCPPool({"files": answering(*options)}) as pool:
        result = await pool.call_tool("files__request", meta={"com.example/trace": "abc"})
        assert json.loads(words(result))["_meta"]["com.example/trace"] == "abc"


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_progress_token_is_sent_even_without_a_progress_function(options: Sequence[str]) -> None:
    async with MCPPool({"files": answering(*options)}) as pool:
        assert "progressToken" in json.loads(words(await pool.call_tool("files__request")))["_meta"]


async def test_each_call_is_sent_once(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"files": with_ledger(ledger)}) as pool:
        for _ in range(3):
            await pool.call_tool("files__echo")
    sent = [line["id"] for line in read_lines(ledger) if line.get("tool") == "echo"]
    assert len(sent) == len(set(sent)) == 3


async def test_two_hundred_calls_run_at_once_on_one_connection(tmp_path: Path) -> None:
    ledger, answers = tmp_path / "ledger", dict[int, str]()
    async with MCPPool({"files": with_ledger(ledger)}) as pool:

        async def call(number: int) -> None:
            answers[number] = words(await pool.call_tool("files__hold", {"key": str(number)}))

        async with anyio.create_task_group() as group:
            for number in range(MANY):
                group.start_soon(call, number)
            await arrival(ledger, "hold", MANY)
            assert pool.snapshot().calls_in_flight == MANY
            assert not answers
            for number in range(MANY):
                group.start_soon(pool.call_tool, "files__release", {"key": str(number)})
        assert answers == {number: str(number) for number in range(MANY)}
        assert pool.snapshot().calls_in_flight == 0
        assert pool.server("files").generation == 1


async def test_answers_in_another_order_reach_the_right_calls(tmp_path: Path) -> None:
    ledger, answers = tmp_path / "ledger", list[tuple[str, str]]()
    async with MCPPool({"files": with_ledger(ledger)}) as pool:

        async def call(key: str) -> None:
            answers.append((key, words(await pool.call_tool("files__hold", {"key": key}))))

        async with anyio.create_task_group() as group:
            for key in "abc":
                group.start_soon(call, key)
            await arrival(ledger, "hold", 3)
            for key in "cab":
                await pool.call_tool("files__release", {"key": key})
    assert sorted(answers) == [(key, key) for key in "abc"]
    assert answers[0][0] == "c"


async def test_calls_are_counted_by_outcome() -> None:
    async with MCPPool({"files": answering()}) as pool:
        await pool.call_tool("files__echo")
        await pool.call_tool("files__failed")
        with pytest.raises(Exception, match="the tool failed"):
            await pool.call_tool("files__error")
        with pytest.raises(TimeoutError):
            await pool.call_tool("files__silent", timeout=0.05)
        with anyio.move_on_after(0.05):
            await pool.call_tool("files__silent")
        seen = pool.snapshot().servers["files"]
        assert (seen.calls_done, seen.calls_failed, seen.calls_in_flight) == (2, 3, 0)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_in_process_tool_may_call_the_pool(mode: str) -> None:
    outer = MCPServer[Any]("outer", log_level="WARNING")
    async with MCPPool({"inner": answering(), "maths": InProcessServer(calculator(), mode=mode)}) as pool:

        @outer.tool(structured_output=False)
        async def ask_all(depth: int) -> str:
            """Call a server in another process, another in-process server, and this one."""
            if not depth:
                return "deep"
            echoed = await pool.call_tool("inner__echo", {"text": "echoed"})
            summed = await pool.call_tool("maths__add", {"a": 1, "b": 2})
            nested = await pool.call_tool("outer__ask_all", {"depth": depth - 1})
            texts = (content.text for result in (echoed, summed, nested) for content in result.content[:1])
            return " ".join(texts)

        await pool.connect("outer", InProcessServer(outer, mode=mode))
        assert words(await pool.call_tool("outer__ask_all", {"depth": 2})) == "echoed 3 echoed 3 deep"
        assert pool.snapshot().calls_in_flight == 0


async def test_a_loss_during_a_nested_call_affects_the_inner_server_only() -> None:
    outer = MCPServer[Any]("outer", log_level="WARNING")
    async with MCPPool({"inner": answering()}) as pool:

        @outer.tool(structured_output=False)
        async def crash_inner() -> str:
            """Call a tool that ends its server."""
            try:
                await pool.call_tool("inner__crash")
            except Exception as error:
                return type(error).__name__
            return "nothing"

        await pool.connect("outer", InProcessServer(outer))
        assert words(await pool.call_tool("outer__crash_inner")) == "ConnectionLost"
        assert pool.server("outer").generation == 1


async def test_two_concurrent_pools_are_independent() -> None:
    async with MCPPool({"files": answering()}) as one, MCPPool({"files": answering()}) as other:
        pids = {words(await pool.call_tool("files__pid")) for pool in (one, other)}
        assert len(pids) == 2
        await one.close_all()
        assert words(await other.call_tool("files__echo", {"text": "still here"})) == "still here"
        with pytest.raises(UnknownTool):
            await one.call_tool("files__echo")


async def test_one_server_object_may_be_in_two_pools() -> None:
    server = InProcessServer(calculator())
    async with MCPPool({"a": server}) as one, MCPPool({"b": server}) as other:
        for pool, name in ((one, "a__add"), (other, "b__add")):
            (content,) = (await pool.call_tool(name, {"a": 2, "b": 2})).content
            assert isinstance(content, TextContent)
            assert content.text == "4"


async def test_a_call_to_an_unknown_server_names_the_known_ones() -> None:
    async with MCPPool({"files": answering()}) as pool:
        with pytest.raises(UnknownServer, match="files"):
            await pool.read_resource("missing", "file:///x")
