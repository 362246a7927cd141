"""Catalog names: valid for all model APIs, and no two the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mcp_pool import catalog_name

LEGAL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
MARKED = re.compile(r"_[0-9a-f]{8}\Z")

ids = st.text(min_size=1).filter(str.isprintable)
names = st.text()
plain_letters = st.text("abcXYZ019_-", min_size=1, max_size=40)
confusing_letters = st.text("ab_0-", min_size=1, max_size=6)
"""Short texts of few different letters, to get pairs that are similar."""


def stays_plain(server_id: str, name: str) -> bool:
    """Whether a pair's name should stay as it is."""
    plain = f"{server_id}__{name}"
    ambiguous = "__" in server_id or server_id.endswith("_") or MARKED.search(plain) is not None
    return LEGAL.fullmatch(plain) is not None and not ambiguous


@given(ids, names)
@example("1", "")
@example("Ω", "ω")
@example("\u00e9", "\ud800")
@example("a" * 100, "b" * 100)
def test_every_name_is_valid_for_all_model_apis(server_id: str, name: str) -> None:
    assert LEGAL.fullmatch(catalog_name(server_id, name))


@given(ids | plain_letters, names | plain_letters)
def test_a_name_has_a_suffix_exactly_when_it_was_changed_or_is_ambiguous(server_id: str, name: str) -> None:
    listed = catalog_name(server_id, name)
    if stays_plain(server_id, name):
        assert listed == f"{server_id}__{name}"
    else:
        assert MARKED.search(listed)


@given(st.tuples(ids, names), st.tuples(ids, names))
def test_two_pairs_never_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert catalog_name(*one) != catalog_name(*other)


@given(st.tuples(confusing_letters, confusing_letters), st.tuples(confusing_letters, confusing_letters))
@example(("a", "_b"), ("a_", "b"))
@example(("a", "b__c"), ("a__b", "c"))
@example(("a_", "b"), ("a", "_b"))
def test_similar_pairs_never_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert catalog_name(*one) != catalog_name(*other)


@given(ids, names)
def test_a_name_that_looks_like_a_changed_name_is_changed_itself(server_id: str, name: str) -> None:
    listed = catalog_name(server_id, name)
    head, separator, tail = listed.partition("__")
    assume(separator and head and (head, tail) != (server_id, name))
    assert catalog_name(head, tail) != listed


@given(st.text("abc", min_size=40, max_size=80), st.text("abc", min_size=40, max_size=80))
def test_long_names_with_the_same_beginning_stay_distinct(one: str, other: str) -> None:
    assume(one != other)
    assert catalog_name("x" * 60, one) != catalog_name("x" * 60, other)


@pytest.mark.parametrize(
    ("server_id", "name", "listed"),
    [
        ("files", "list_directory", "files__list_directory"),
        ("a-b", "c-d", "a-b__c-d"),
        ("_x", "y", "_x__y"),
        ("a", "b__c", "a__b__c"),
        ("a", "_b", "a___b"),
        ("a", "b_", "a__b_"),
        ("a_b", "c", "a_b__c"),
        ("a", "deadbee", "a__deadbee"),
        ("a", "x_DEADBEEF", "a__x_DEADBEEF"),
        ("i" * 30, "n" * 32, "i" * 30 + "__" + "n" * 32),
    ],
)
def test_a_valid_and_unambiguous_name_is_unchanged(server_id: str, name: str, listed: str) -> None:
    assert catalog_name(server_id, name) == listed


@pytest.mark.parametrize(
    ("server_id", "name"),
    [
        pytest.param("my server", "tool", id="a space is cleaned"),
        pytest.param("files", "list.directory", id="a dot is cleaned"),
        pytest.param("files", "größe", id="a letter beyond ASCII is cleaned"),
        pytest.param("1st", "tool", id="a digit may not begin a name"),
        pytest.param("-x", "tool", id="nor may a hyphen"),
        pytest.param("i" * 30, "n" * 33, id="one letter too long is cut"),
        pytest.param("a__b", "c", id="the id contains two underscores"),
        pytest.param("a_", "b", id="the id ends in an underscore"),
        pytest.param("a", "x_deadbeef", id="it looks like a marked name by chance"),
        pytest.param("a", "deadbeef", id="its last underscore may be the separator's"),
        pytest.param("a", "tool\n", id="a line break at the end is cleaned"),
    ],
)
def test_an_invalid_or_ambiguous_name_has_a_suffix(server_id: str, name: str) -> None:
    assert MARKED.search(catalog_name(server_id, name))


def test_the_suffix_is_part_of_the_contract() -> None:
    """Prompts and logs contain these names, so later versions must not change them."""
    assert catalog_name("my server", "tool") == "my_server__tool_ec0561ad"


def test_a_cut_name_keeps_its_beginning_and_the_full_length() -> None:
    listed = catalog_name("server", "n" * 100)
    assert len(listed) == 64
    assert listed.startswith("server__nnn")
