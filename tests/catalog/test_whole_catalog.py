"""The catalog of many servers: agreement with events, order, versions, names that collide, prompts, and held tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import MCPError
from mcp_types import INTERNAL_ERROR, Tool

from helpers.common import eventually, row_of, scripted
from helpers.fake import FAKE, Life, fake_wire, listed
from mcp_pool import (
    CatalogChanged,
    ConnectError,
    ConnectionLost,
    Failed,
    InProcessServer,
    MCPPool,
    NameCollision,
    PoolCleared,
    RestartPolicy,
    ServerUnavailable,
    ToolEntry,
    ToolHeld,
    UnknownPrompt,
    UnknownTool,
)
from mcp_pool.catalog.view import CatalogView
from mcp_pool.connection.listing import Listing
from mcp_pool.transports.channel import DisconnectCause
from servers.changing import Changing

if TYPE_CHECKING:
    from mcp_pool import EventStream

NEVER = RestartPolicy.never()
IDS = "abc"


def own_name(_server_id: str, name: str) -> str:
    """A scheme in which names can collide."""
    return name


async def folded(events: EventStream, copy: dict[str, ToolEntry]) -> None:
    """Apply all events that are waiting to a copy of the catalog."""
    while events._queue.waiting:
        event = await anext(events)
        if isinstance(event, PoolCleared):
            copy.clear()
        elif isinstance(event, CatalogChanged):
            for entry in event.removed:
                assert isinstance(entry, ToolEntry)
                del copy[entry.catalog_name]
            for entry in (*event.added, *(new for _, new in event.changed)):
                assert isinstance(entry, ToolEntry)
                copy[entry.catalog_name] = entry


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["connect", "disconnect", "replace", "fail", "restart", "list", "clear"]),
        st.sampled_from(IDS),
        st.sets(st.sampled_from("xyz")),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
async def test_the_catalog_is_the_merge_of_the_listings_in_a_stable_order_and_the_events_tell_it(
    steps: list[tuple[str, str, set[str]]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake_wire(patch)
        async with MCPPool() as pool, pool.events() as events:
            copy, places, seen = dict[str, ToolEntry](), list[str](), dict[str, list[str]]()
            for step, server_id, names in steps:
                there = server_id in pool.servers
                if step == "clear":
                    await pool.close_all()
                    places.clear()
                    seen.clear()
                elif step == "connect" and not there:
                    await pool.connect(server_id, FAKE)
                    places += [server_id] if server_id not in places else []
                    seen[server_id] = []
                elif step == "disconnect" and there:
                    await pool.disconnect(server_id)
                elif step == "replace" and there:
                    await pool.replace(server_id, FAKE)
                elif step == "restart" and there:
                    await pool.server(server_id).restart()
                elif step == "fail" and there and isinstance(row_of(pool, server_id).connection, object):
                    connection = row_of(pool, server_id).connection
                    if connection is not None:
                        connection.channel.mark_lost(DisconnectCause("fell over"))
                elif step == "list" and there:
                    row = row_of(pool, server_id)
                    tools = [Tool(name=name, input_schema={"type": "object"}) for name in sorted(names)]
                    row.update_offer(listed(*tools), row.offering.begin_listing())
                    seen[server_id] += [tool.name for tool in tools if tool.name not in seen[server_id]]
                offers = [row_of(pool, key).offer.tools for key in pool.servers]
                merged = {name: entry for offer in offers for name, entry in offer.items()}
                assert pool.tools == merged
                assert list(pool.tools) == list(merged)
                assert list(pool.servers) == [key for key in places if key in pool.servers]
                await folded(events, copy)
                assert copy == merged
                assert pool.tools is pool.tools


async def test_a_status_change_merges_nothing_and_touches_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, made = fake_wire(monkeypatch, Life()), list[CatalogView[Any, Any]]()
    real = CatalogView.__init__

    def counting(view: CatalogView[Any, Any], *arguments: Any) -> None:
        made.append(view)
        real(view, *arguments)

    monkeypatch.setattr(CatalogView, "__init__", counting)
    async with MCPPool({f"s{number}": FAKE for number in range(50)}) as pool:
        tools = [Tool(name=name, input_schema={"type": "object"}) for name in "ab"]
        for server_id in pool.servers:
            row = row_of(pool, server_id)
            row.update_offer(listed(*tools), row.offering.begin_listing())
        before = pool.tools
        made.clear()
        wire.kill("s7")
        assert pool.tools is before
        assert before["s7__a"].stale
        assert not before["s8__a"].stale
        await pool.server("s7").restart()
        row = row_of(pool, "s7")
        assert (pool.prompts, pool.resources, pool.resource_templates) == ({}, {}, {})
        assert [view for view in made if isinstance(next(iter(view.values()), None), ToolEntry)] in ([], [pool.tools])
        kept = pool.tools["s8__a"]
        row.update_offer(listed(tools[0]), row.offering.begin_listing())
        assert pool.tools["s8__a"] is kept


async def test_a_failed_server_leaves_the_catalog_and_returns_with_it_and_a_call_says_why() -> None:
    changing = Changing("t")
    async with MCPPool({"s": InProcessServer(changing.server, restart=NEVER)}) as pool, pool.events() as events:
        entry, prompts = pool.tools["s__t"], pool.prompts
        connection = row_of(pool, "s").connection
        assert connection is not None
        connection.channel.mark_lost(DisconnectCause("fell over"))
        assert isinstance(pool.server("s").state, Failed)
        assert (len(pool.tools), len(pool.prompts)) == (0, 0)
        with pytest.raises(ServerUnavailable, match="fell over"):
            await pool.call_tool("s__t")
        with pytest.raises(ServerUnavailable, match="fell over"):
            await pool.get_prompt("s__greet")
        await pool.server("s").restart()
        assert (pool.tools["s__t"], pool.prompts) == (entry, prompts)
        changes = [event for event in [await anext(events) for _ in range(5)] if isinstance(event, CatalogChanged)]
        assert [(len(change.removed), len(change.added)) for change in changes] == [(10, 0), (0, 10)]


async def test_a_server_that_returns_takes_its_place_again() -> None:
    spec = {key: InProcessServer(Changing("t").server) for key in IDS}
    async with MCPPool(spec) as pool:
        await pool.disconnect("b")
        assert list(pool.tools) == ["a__t", "c__t"]
        await pool.connect("b", spec["b"])
        assert list(pool.tools) == ["a__t", "b__t", "c__t"]
        versions = [pool.tools.version]
        await pool.close_all()
        versions.append(pool.tools.version)
        await pool.connect("c", spec["c"])
        versions.append(pool.tools.version)
        assert versions == sorted(set(versions))
        assert repr(pool.tools) == f"<CatalogView version {versions[-1]}: 'c__t'>"
        assert await anyio.to_thread.run_sync(lambda: pool.tools["c__t"].stale) is False


async def test_of_two_servers_with_colliding_names_the_second_does_not_come_up_half() -> None:
    one, other = (InProcessServer(Changing("t").server) for _ in range(2))
    async with MCPPool(name_tool=own_name) as pool:
        outcomes: list[object] = []

        async def connect(server_id: str, spec: InProcessServer) -> None:
            try:
                outcomes.append(await pool.connect(server_id, spec))
            except NameCollision as error:
                outcomes.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(connect, "one", one)
            group.start_soon(connect, "other", other)
        assert True in outcomes
        (error,) = [outcome for outcome in outcomes if isinstance(outcome, NameCollision)]
        assert isinstance(error, ConnectError)
        assert len(pool.servers) == 1
        (server_id,) = pool.servers
        assert (error.owner_id, error.name, pool.tools["t"].server_id) == (server_id, "t", server_id)
        assert (await pool.call_tool("t")).structured_content == {"called": "t"}


async def test_a_call_by_a_chosen_name_waits_for_any_server_that_is_not_listed() -> None:
    async with MCPPool(name_tool=own_name) as pool:
        pool.add("slow", scripted("--slow-start", 0.2))
        assert not (await pool.call_tool("echo", {"text": "here"})).is_error


async def test_prompts_are_got_by_their_catalog_names_and_close_names_are_offered() -> None:
    async with MCPPool() as pool:
        pool.add("s", InProcessServer(Changing().server))
        result = await pool.get_prompt("s__greet", {"name": "Ann"})  # waits for the listing
        assert result.description == "greet"
        with pytest.raises(
            UnknownPrompt, match=r"No server in the pool offers a prompt 's__great'\. Did you mean 's__greet'"
        ):
            await pool.get_prompt("s__great")
        with pytest.raises(UnknownTool, match=r"Did you mean 's__echo'\?"):
            await pool.call_tool("s__ecko")


async def test_a_held_tool_cannot_be_called_in_any_way_until_it_is_approved() -> None:
    changing = Changing("t")
    spec = InProcessServer(changing.server, on_changed="hold")
    async with MCPPool({"s": spec}) as pool:
        digest = pool.tools_digest()
        changing.tools = {"t": "changed"}
        await changing.report("tools")
        await eventually(lambda: not pool.tools)
        server = pool.server("s")
        held = server.held_tools["t"]
        for call in (lambda: pool.call_tool("s__t"), lambda: server.call_tool("t")):
            with pytest.raises(ToolHeld, match="is new or has changed") as caught:
                await call()
            assert caught.value.fingerprint == held.fingerprint
        assert await server.list_tools() == ()
        server.approve("t", held.fingerprint)
        assert (await pool.call_tool("s__t")).structured_content == {"called": "t"}
        assert pool.tools["s__t"].tool.description == "changed"
        assert not server.held_tools
        assert pool.tools_digest() != digest
    assert not server.held_tools


async def test_a_failed_server_stays_out_of_the_catalog_while_it_is_listed_and_while_it_closes() -> None:
    changing = Changing("t")
    spec = InProcessServer(changing.server, restart=NEVER, on_changed="hold")
    async with MCPPool({"s": spec}) as pool, pool.events() as events:
        row = row_of(pool, "s")
        assert row.connection is not None
        row.connection.channel.mark_lost(DisconnectCause("fell over"))
        row.update_offer(listed(Tool(name="new", input_schema={"type": "object"})), row.offering.begin_listing())
        pool.server("s").approve("new", row.offering.tools["new"].fingerprint)
        assert not pool.tools
        await pool.disconnect("s")
        assert [type(event).__name__ for event in events._queue.waiting] == [
            "StatusChanged",
            "CatalogChanged",
            "StatusChanged",
            "ServerRemoved",
        ]


async def test_a_part_that_a_refresh_could_not_list_is_listed_again() -> None:
    changing = Changing("t", reports=False)
    async with MCPPool({"s": InProcessServer(changing.server, restart=RestartPolicy(initial_delay=0))}) as pool:
        changing.fails = {"tools": MCPError(INTERNAL_ERROR, "broken")}
        with pytest.raises(MCPError):
            await pool.server("s").refresh()
        assert pool.tools["s__t"].stale
        changing.fails, changing.tools = {}, {"u": ""}
        await eventually(lambda: "s__u" in pool.tools and not pool.tools["s__u"].stale)


async def test_entries_of_a_replaced_server_are_fresh_even_if_its_listing_is_equal() -> None:
    async with MCPPool({"s": InProcessServer(Changing("t").server)}) as pool:
        before = pool.tools
        await pool.replace("s", InProcessServer(Changing("t").server))
        assert pool.tools == before
        assert not pool.tools["s__t"].stale


async def test_a_tool_that_the_first_listing_holds_is_not_called_by_who_waited_for_it() -> None:
    changing = Changing("t")
    async with MCPPool() as pool:
        pool.add("s", InProcessServer(changing.server, on_changed="hold", pinned={"t": "1:abc"}))
        with pytest.raises(ToolHeld):
            await pool.server("s").call_tool("t")


async def test_what_is_listed_of_a_server_that_leaves_or_is_lost_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lose(*_arguments: object) -> Listing:
        connection = row_of(pool, "s").connection
        assert connection is not None
        connection.channel.mark_lost(DisconnectCause("fell over"))
        raise OSError("it was lost meanwhile")

    later = RestartPolicy(initial_delay=1000, max_delay=1000)
    async with MCPPool({"s": InProcessServer(Changing("t").server, restart=later)}) as pool:
        before, row = pool.tools, row_of(pool, "s")
        monkeypatch.setattr("mcp_pool.calls.refresh.list_part", lose)
        with pytest.raises(ConnectionLost):
            await pool.server("s").refresh()
        row.refuse()
        assert row.update_offer(listed(), row.offering.begin_listing()) is None
        assert pool.tools is before
