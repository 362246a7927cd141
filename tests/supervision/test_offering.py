"""The offer of one server: names, a stable order, exact changes, and tools that wait for approval."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import Prompt, Resource, ResourceTemplate, Tool, ToolAnnotations

from mcp_pool import ConfigError, MCPPool, NameCollision, StdioServer, ToolHeld, UnknownTool, catalog_name
from mcp_pool.config.target import Target
from mcp_pool.connection.listing import Listing
from mcp_pool.supervision.entries import fingerprint
from mcp_pool.supervision.offering import EXTRA_NAMES_LIMIT, Offering

NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


def tool(name: str, description: str | None = None, **fields: Any) -> Tool:
    """A tool."""
    return Tool(name=name, description=description, input_schema={"type": "object"}, **fields)


def listing(*tools: str | Tool) -> dict[Any, Any]:
    """A listing of tools."""
    made = [one if isinstance(one, Tool) else tool(one) for one in tools]
    return {"tools": Listing({one.name: one for one in made})}


def offering(name_tool: Any = None, owner_of: Any = lambda _: None, **fields: Any) -> Offering:
    """An offering of a server."""
    target = Target.of(MCPPool()._supervisor.settings, "s", StdioServer("program", **fields))
    return Offering(target, name_tool, lambda _: False, owner_of)


def update(made: Offering, *tools: str | Tool) -> Any:
    """List these tools."""
    return made.update(listing(*tools), made.begin_listing())


def offered(made: Offering) -> list[str]:
    """The server's own names of the tools on offer."""
    return [entry.name for entry in made.offer.tools.values()]


@given(listings=st.lists(NAMES))
def test_names_stay_in_the_order_in_which_they_were_first_seen(listings: list[list[str]]) -> None:
    made, seen = offering(), list[str]()
    for names in listings:
        update(made, *names)
        seen += [name for name in names if name not in seen]
        assert offered(made) == [name for name in seen if name in names]


def test_the_places_of_names_that_come_and_go_are_bounded() -> None:
    made = offering()
    for number in range(EXTRA_NAMES_LIMIT + 10):
        update(made, f"tool_{number}", "last")
    assert len(made.order["tools"]) == EXTRA_NAMES_LIMIT + 2


@given(listings=st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y"]))))
def test_the_changes_lead_from_each_offer_to_the_next(listings: list[dict[str, str]]) -> None:
    made, copy = offering(), dict[str, Tool]()
    for tools in listings:
        before = dict(copy)
        change = update(made, *(tool(name, text) for name, text in tools.items()))
        if change is not None:
            for entry in change.removed:
                assert before[entry.name] == entry.tool
                del copy[entry.name]
            for old, new in change.changed:
                assert old.name == new.name
                assert before[old.name] == old.tool != new.tool
                copy[new.name] = new.tool
            for entry in change.added:
                assert entry.name not in before
                copy[entry.name] = entry.tool
        assert copy == {name: tool(name, text) for name, text in tools.items()}
        assert (change is None) == (copy == before)


def test_all_parts_are_offered_and_a_part_that_failed_stays() -> None:
    made = offering()
    parts: dict[Any, Any] = {
        **listing("t"),
        "prompts": Listing({"p": Prompt(name="p")}),
        "resources": Listing({"a://b": Resource(name="r", uri="a://b")}),
        "resource_templates": Listing({"a://{b}": ResourceTemplate(name="r", uri_template="a://{b}")}),
    }
    change = made.update(parts, made.begin_listing())
    assert change is not None
    assert len(change.added) == 4
    assert made.update({part: OSError("broken") for part in parts}, made.begin_listing()) is None
    assert (made.failed, made.listed) == (parts.keys(), parts.keys())
    assert list(made.offer.resources) == [("s", "a://b")]


def test_a_listing_that_started_earlier_does_not_overwrite_a_later_one() -> None:
    made = offering()
    earlier, later = made.begin_listing(), made.begin_listing()
    made.update(listing("new"), later)
    assert made.update(listing("old"), earlier) is None
    assert made.update({"tools": OSError("broken")}, earlier) is None
    assert (offered(made), made.failed) == (["new"], frozenset())


# Approval


def test_a_fingerprint_covers_what_is_seen_of_a_tool_and_nothing_else() -> None:
    plain = tool("a", "b")
    same = [tool("a", "b", icons=[]), tool("a", "b", _meta={"x": 1}), plain.model_copy(deep=True)]
    others = [
        tool("c", "b"),
        tool("a", "c"),
        tool("a", "b", title="c"),
        tool("a", "b", output_schema={"type": "object"}),
        tool("a", "b", annotations=ToolAnnotations(read_only_hint=True)),
        Tool(name="a", description="b", input_schema={"type": "object", "required": []}),
        tool("a", "half a pair: \ud800"),
    ]
    fingerprints = [fingerprint(one) for one in (plain, *others)]
    assert {fingerprint(one) for one in same} == {fingerprints[0]}
    assert len(set(fingerprints)) == len(fingerprints)
    # Stored fingerprints must stay valid: a change of the formula needs another version.
    text = b'{"description":"b","inputSchema":{"type":"object"},"name":"a"}'
    assert fingerprints[0] == f"1:{sha256(text).hexdigest()}"


def test_a_tool_that_changes_or_is_added_after_the_first_listing_is_held_until_it_is_approved() -> None:
    made = offering(on_changed="hold")
    update(made, "kept", tool("changing", "before"))
    change = update(made, "kept", tool("changing", "after"), "added")
    assert offered(made) == ["kept"]
    assert [entry.name for entry in change.held] == ["changing", "added"]
    assert [entry.name for entry in change.removed] == ["changing"]
    assert (change.added, change.changed) == ((), ())
    assert made.held("changing") is change.held[0]
    assert made.held("kept") is None
    after = change.held[0].fingerprint
    change = made.approve("changing", after)
    assert change is not None
    assert [entry.tool.description for entry in change.added] == ["after"]
    assert (offered(made), made.approve("changing", after)) == (["kept", "changing"], None)
    assert made.held("changing") is None


def test_a_tool_that_changes_back_is_offered_again() -> None:
    made = offering(on_changed="hold")
    update(made, tool("a", "before"))
    update(made, tool("a", "after"))
    assert offered(made) == []
    update(made, tool("a", "before"))
    assert offered(made) == ["a"]


def test_a_tool_that_has_changed_again_since_it_was_reviewed_stays_held() -> None:
    made = offering(on_changed="hold")
    update(made, tool("a", "before"))
    reviewed = update(made, tool("a", "after")).held[0].fingerprint
    update(made, tool("a", "again"))
    with pytest.raises(ToolHeld, match="not the one that was to be approved") as caught:
        made.approve("a", reviewed)
    assert caught.value.fingerprint == made.tools["a"].fingerprint != reviewed
    assert offered(made) == []
    with pytest.raises(UnknownTool, match="offers no tool 'b'"):
        made.approve("b", reviewed)


def test_pinned_fingerprints_hold_from_the_first_listing_on() -> None:
    pinned = {"right": fingerprint(tool("right")), "wrong": "1:abc"}
    made = offering(on_changed="hold", pinned=pinned)
    update(made, "right", "wrong", "not pinned")
    assert offered(made) == ["right", "not pinned"]


def test_without_hold_changed_tools_are_offered() -> None:
    made = offering()
    update(made, tool("a", "before"))
    update(made, tool("a", "after"))
    assert offered(made) == ["a"]
    assert made.approve("a", made.tools["a"].fingerprint) is None


def test_a_replacement_offers_and_holds_what_its_predecessor_did_until_it_is_listed() -> None:
    old = offering(on_changed="hold")
    update(old, "b", "a", "filtered")
    update(old, "b", "a", "filtered", "held")
    new = offering(on_changed="hold", exclude_tools=["filtered"], pinned={"held": fingerprint(tool("held"))})
    new.inherit(old)
    assert (offered(new), new.listed) == (["b", "a", "held"], frozenset())
    update(new, "a", "b", "c")
    assert (offered(new), list(new.offer.held)) == (["b", "a"], ["s__c"])
    fresh = offering()
    fresh.inherit(offering())
    assert offered(fresh) == []


# Chosen names


def test_two_tools_of_one_server_with_one_name_are_a_collision_and_change_nothing() -> None:
    made = offering(lambda _, name: name.lower())
    update(made, "a")
    with pytest.raises(
        NameCollision, match=r"Tool 'B' of server 's' gets the catalog name 'b' .* its tool 'b' has"
    ) as caught:
        update(made, "b", "B")
    assert (caught.value.name, caught.value.owner_id, caught.value.retryable) == ("b", "s", False)
    assert offered(made) == ["a"]


def test_a_name_that_another_server_has_is_a_collision() -> None:
    made = offering(lambda _, name: name, owner_of=lambda name: "other" if name == "a" else None)
    with pytest.raises(NameCollision, match="which a tool of server 'other' has already"):
        made.check(listing("a"))
    made.check(listing("b"))


@pytest.mark.parametrize(
    ("name_tool", "what"),
    [
        (lambda _, __: "", "must return a non-empty string"),
        (lambda _, __: 5, "must return a non-empty string"),
        (lambda _, __: 1 / 0, "raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_gives_no_name_is_a_config_error(name_tool: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=f"name_tool {what} for the tool 'a' of server 's'"):
        update(offering(name_tool), "a")


def test_without_a_function_names_are_those_that_cannot_collide() -> None:
    made = offering()
    update(made, "a b")
    assert list(made.offer.tools) == [catalog_name("s", "a b")]


def test_an_approval_where_nothing_is_held_holds_nothing_after_a_replacement() -> None:
    old, new = offering(), offering(on_changed="hold")
    update(old, "a", "b")
    old.approve("a", old.tools["a"].fingerprint)
    new.inherit(old)
    update(new, "a", "b")
    assert offered(new) == ["a", "b"]
