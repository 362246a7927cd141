"""Everything that a server offers is listed whole; what cannot be listed does not keep the server from being used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, METHOD_NOT_FOUND

from helpers.common import eventually
from mcp_pool import ConnectError, InProcessServer, MCPPool, RestartPolicy
from servers.changing import Changing

if TYPE_CHECKING:
    from loguru import Message

LATER = RestartPolicy(initial_delay=1000, max_delay=1000)
AT_ONCE = RestartPolicy(initial_delay=0)
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


@MODES
async def test_all_parts_are_listed_with_all_their_pages(mode: str) -> None:
    changing = Changing("a", "b", "c")
    async with MCPPool({"s": InProcessServer(changing.server, mode=mode)}) as pool:
        assert list(pool.tools) == ["s__a", "s__b", "s__c"]
        assert list(pool.prompts) == ["s__greet", "s__part", "s__wave"]
        assert list(pool.resources) == [("s", "res://a"), ("s", "res://b"), ("s", "res://c")]
        assert list(pool.resource_templates) == [("s", "res://{x}"), ("s", "res://{y}"), ("s", "res://{z}")]
        prompt, resource = pool.prompts["s__greet"], pool.resources["s", "res://a"]
        template = pool.resource_templates["s", "res://{x}"]
        assert (prompt.server_id, prompt.name, prompt.prompt.name, prompt.stale) == ("s", "greet", "greet", False)
        assert (resource.uri, resource.resource.name, resource.stale) == ("res://a", "res://a", False)
        assert (template.uri_template, template.resource_template.name) == ("res://{x}", "res://{x}")
        assert sorted(changing.asked) == ["prompts", "resource_templates", "resources", "tools"]


@MODES
async def test_a_part_that_fails_is_warned_about_and_does_not_keep_the_server_from_being_used(
    mode: str, record_logs: list[Message]
) -> None:
    changing = Changing()
    changing.fails = {
        "prompts": MCPError(INTERNAL_ERROR, "the prompts are broken"),
        "resources": MCPError(METHOD_NOT_FOUND, "there are none"),
    }
    async with MCPPool({"s": InProcessServer(changing.server, mode=mode, restart=LATER)}) as pool:
        assert (await pool.call_tool("s__echo")).structured_content == {"called": "echo"}
        assert (list(pool.prompts), list(pool.resources), len(pool.resource_templates)) == ([], [], 3)
        (told,) = [line.record["message"] for line in record_logs if line.record["level"].name == "WARNING"]
        assert told.startswith(
            "The prompts of server 's' could not be listed; any earlier listing stays. Next attempt in"
        )
        assert told.endswith("MCPError: the prompts are broken")


async def test_a_part_that_hangs_is_listed_again_while_the_server_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.connection.listing.SLOW_PART_TIMEOUT", 0.05)
    changing = Changing()
    changing.hangs = {"prompts"}
    async with MCPPool({"s": InProcessServer(changing.server, restart=AT_ONCE)}) as pool:
        assert list(pool.tools) == ["s__echo"]
        assert list(pool.prompts) == []
        changing.hangs = set()
        await eventually(lambda: len(pool.prompts) == 3)


async def test_tools_that_cannot_be_listed_are_a_failed_attempt_even_if_other_parts_hang() -> None:
    changing = Changing()
    changing.hangs, changing.fails = {"prompts"}, {"tools": MCPError(INTERNAL_ERROR, "the tools are broken")}
    async with MCPPool() as pool:
        with pytest.raises(ConnectError, match="the tools are broken"):
            await pool.connect("s", InProcessServer(changing.server))
        assert not pool.servers


@MODES
async def test_a_listing_that_fails_later_keeps_the_last_good_one_which_is_stale_until_it_succeeds(mode: str) -> None:
    changing = Changing("a", "b")
    async with MCPPool({"s": InProcessServer(changing.server, mode=mode, restart=LATER)}) as pool:
        tools = pool.tools
        changing.fails = {"tools": MCPError(INTERNAL_ERROR, "broken")}
        with pytest.raises(MCPError):
            await pool.server("s").refresh()
        assert pool.tools is tools
        assert all(entry.stale for entry in tools.values())
        assert not pool.prompts["s__greet"].stale
        changing.fails = {}
        await pool.server("s").refresh()
        assert pool.tools is tools
        assert not any(entry.stale for entry in tools.values())
