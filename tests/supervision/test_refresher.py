"""What a server offers is kept current: changes, bursts, failures, lifetimes, and streams of changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, SubscriptionFilter

from helpers.common import connection_of, eventually
from mcp_pool import CatalogChanged, InProcessServer, MCPPool, NameCollision, RestartPolicy
from mcp_pool.transports.channel import DisconnectCause
from servers.changing import Changing

if TYPE_CHECKING:
    from loguru import Message

AT_ONCE = RestartPolicy(initial_delay=0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings and streams follow each other more quickly, to save time."""
    monkeypatch.setattr("mcp_pool.supervision.refresher.MIN_INTERVAL", 0.01)
    monkeypatch.setattr("mcp_pool.connection.change_stream.MIN_DELAY", 0.01)


def serving(changing: Changing, **fields: Any) -> InProcessServer:
    """The spec of a server."""
    return InProcessServer(changing.server, restart=AT_ONCE, **fields)


async def test_a_reported_change_is_listed_and_told_without_a_refresh() -> None:
    changing = Changing("a", "b")
    async with MCPPool({"s": serving(changing)}) as pool, pool.events() as events:
        before = pool.tools
        changing.tools = {"b": "changed", "c": ""}
        await changing.report("tools")
        event = await anext(events)
        assert isinstance(event, CatalogChanged)
        after = pool.tools
        assert event == CatalogChanged(
            "s",
            added=(after["s__c"],),
            removed=(before["s__a"],),
            changed=((before["s__b"], after["s__b"]),),
        )
        assert event.changed[0][1].tool.description == "changed"
        assert after.version > before.version
        changing.prompts, changing.resources, changing.templates = ["one"], ["res://one"], ["res://{one}"]
        await changing.report("prompts", "resources")
        await eventually(lambda: (len(pool.prompts), len(pool.resources), len(pool.resource_templates)) == (1, 1, 1))


async def test_changes_during_a_listing_cause_one_more() -> None:
    changing = Changing("a")
    async with MCPPool({"s": serving(changing)}) as pool:
        changing.asked.clear()
        changing.holds = anyio.Event()
        await changing.report("tools")
        await eventually(lambda: changing.asked == ["tools"])
        for number in range(20):
            changing.tools[f"tool_{number}"] = ""
            await changing.report("tools")
        await anyio.wait_all_tasks_blocked()
        changing.holds.set()
        await eventually(lambda: len(pool.tools) == 21)
        await anyio.sleep(0.05)
        assert changing.asked == ["tools", "tools"]


async def test_a_listing_that_fails_is_repeated_with_back_off_until_it_succeeds(record_logs: list[Message]) -> None:
    changing = Changing("a")
    async with MCPPool({"s": serving(changing)}) as pool:
        changing.fails = {"tools": MCPError(INTERNAL_ERROR, "broken")}
        await changing.report("tools")
        await eventually(lambda: changing.asked.count("tools") >= 4)
        assert pool.tools["s__a"].stale
        changing.fails, changing.tools = {}, {"b": ""}
        await eventually(lambda: list(pool.tools) == ["s__b"])
        assert not pool.tools["s__b"].stale
    assert any("The tools of server 's' could not be listed" in line for line in record_logs)


async def test_a_listing_with_a_lifetime_is_listed_again_when_it_is_over_unless_changes_are_reported() -> None:
    silent, reporting = Changing("a", reports=False), Changing("a")
    silent.ttl = reporting.ttl = 20
    async with MCPPool({"silent": serving(silent), "reporting": serving(reporting)}) as pool:
        silent.tools = {"b": ""}
        await eventually(lambda: "silent__b" in pool.tools and silent.asked.count("tools") > 3)
        assert reporting.asked.count("tools") == 1


async def test_a_change_that_the_pool_cannot_take_over_leaves_the_earlier_listing_stale(
    record_logs: list[Message],
) -> None:
    one, other = Changing("a"), Changing("b")
    later = RestartPolicy(initial_delay=1000, max_delay=1000)
    servers = {"one": serving(one), "other": InProcessServer(other.server, restart=later)}
    async with MCPPool(servers, name_tool=lambda _, tool: tool) as pool:
        other.tools = {"a": ""}
        await other.report("tools")
        await eventually(lambda: pool.tools["b"].stale)
        assert (list(pool.tools), pool.tools["a"].server_id) == (["a", "b"], "one")
        one.tools = {"c": ""}
        await pool.server("one").refresh()
        await pool.server("other").refresh()
        assert list(pool.tools) == ["c", "a"]
    assert any("which a tool of server 'one' has already" in line for line in record_logs)


async def test_a_refresh_that_cannot_be_taken_over_says_why() -> None:
    one, other = Changing("a", reports=False), Changing("b", reports=False)
    servers = {"one": serving(one), "other": serving(other)}
    async with MCPPool(servers, name_tool=lambda _, tool: tool) as pool:
        other.tools = {"a": ""}
        with pytest.raises(NameCollision):
            await pool.server("other").refresh()
        assert list(pool.tools) == ["a", "b"]


async def test_what_changed_while_no_stream_was_open_is_listed_when_one_is_again() -> None:
    changing = Changing("a")
    async with MCPPool({"s": serving(changing)}) as pool:
        assert (changing.streams, changing.asked.count("tools")) == (1, 1)
        changing.listen.close()
        changing.tools = {"b": ""}
        await eventually(lambda: list(pool.tools) == ["s__b"])
        assert changing.streams == 2
        assert pool.server("s").generation == 1
        await pool.server("s").restart()
        assert changing.streams == 3


async def test_a_server_that_refuses_streams_is_asked_again_only_by_the_next_connection(
    record_logs: list[Message],
) -> None:
    changing = Changing("a")
    changing.refuses = True
    async with MCPPool({"s": serving(changing)}) as pool:
        assert list(pool.tools) == ["s__a"]
        changing.refuses = False
        await anyio.sleep(0.05)
        assert changing.streams == 0
        await pool.server("s").restart()
        assert changing.streams == 1
    assert any("does not tell of changes" in line for line in record_logs)


@pytest.mark.parametrize("late", [False, True])
async def test_lifetimes_count_for_a_server_that_declares_changes_but_refuses_to_tell_them(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, may_refuse = Changing("a"), anyio.Event()
    changing.refuses, changing.ttl = True, 20
    if late:
        monkeypatch.setattr("mcp_pool.connection.connect.LISTEN_TIMEOUT", 0.01)
        changing.delays = may_refuse
    async with MCPPool({"s": serving(changing)}) as pool:
        may_refuse.set()
        changing.tools = {"b": ""}
        await eventually(lambda: "s__b" in pool.tools, within=5)


async def test_lifetimes_count_once_a_server_that_told_changes_refuses_to() -> None:
    changing = Changing("a")
    changing.ttl = 20
    async with MCPPool({"s": serving(changing)}) as pool:
        changing.refuses = True
        changing.listen.close()
        await eventually(lambda: changing.asked.count("tools") > 3, within=5)
        assert (changing.streams, pool.server("s").generation) == (1, 1)


async def test_lifetimes_count_for_lists_that_a_stream_leaves_out() -> None:
    changing = Changing("a")
    changing.ttl, changing.honors = 20, SubscriptionFilter(prompts_list_changed=True)
    async with MCPPool({"s": serving(changing)}) as pool:
        changing.tools, changing.prompts = {"b": ""}, ["other"]
        await eventually(lambda: "s__b" in pool.tools, within=5)
        assert changing.asked.count("prompts") == 1
        await changing.report("prompts")
        await eventually(lambda: "s__other" in pool.prompts)


async def test_a_stream_that_opens_late_does_not_delay_the_connection_and_is_followed_by_a_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mcp_pool.connection.connect.LISTEN_TIMEOUT", 0.01)
    changing, may_open = Changing("a"), anyio.Event()
    listening = changing.listen

    async def listen(*arguments: Any) -> Any:
        await may_open.wait()
        return await listening(*arguments)

    monkeypatch.setattr(changing, "listen", listen)
    async with MCPPool({"s": serving(changing)}) as pool:
        changing.tools = {"b": ""}
        assert list(pool.tools) == ["s__a"]
        may_open.set()
        await eventually(lambda: list(pool.tools) == ["s__b"])


async def test_listings_end_with_their_connection() -> None:
    changing = Changing("a")
    async with MCPPool({"s": serving(changing)}) as pool:
        changing.holds = anyio.Event()
        changing.asked.clear()
        await changing.report("tools")
        await eventually(lambda: changing.asked == ["tools"])
        connection_of(pool, "s").channel.mark_lost(DisconnectCause("fell over"))
        changing.holds = None
        await pool.wait_ready("s")
        assert pool.server("s").generation == 2
        assert not pool.tools["s__a"].stale
