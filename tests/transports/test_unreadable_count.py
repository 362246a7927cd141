"""Counting what cannot be read, in all and since each of many calls began."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pool.transports.unreadable_count import Mark, UnreadableCount


def test_nothing_is_said_of_nothing() -> None:
    count = UnreadableCount()
    assert count.since(count.mark()) == ""


def test_what_came_before_a_mark_is_not_counted_since_it() -> None:
    count = UnreadableCount("event")
    count.add(lambda: "'a'")
    mark = count.mark()
    count.add(lambda: "'b'")
    assert count.since(mark) == "sent 1 event that is not JSON-RPC: 'b'"
    count.add(lambda: "'c'")
    assert count.since(mark) == "sent 2 events that are not JSON-RPC, the first of them 'b'"
    assert count.since(count.beginning) == "sent 3 events that are not JSON-RPC, the first of them 'a'"


def test_a_flood_is_quoted_once() -> None:
    count = UnreadableCount()
    mark = count.mark()
    count.add(lambda: "'a'")
    for _ in range(1000):
        count.add(lambda: pytest.fail("it was quoted again"))
    assert count.since(mark) == "sent 1001 lines that are not JSON-RPC, the first of them 'a'"


@given(st.lists(st.booleans(), max_size=50))
def test_every_mark_knows_how_many_came_since_and_the_first_of_them(steps: list[bool]) -> None:
    count, marks, lines = UnreadableCount(), list[tuple[Mark, int]](), 0
    for is_line in steps:
        if is_line:
            count.add(lambda number=lines: f"'{number}'")  # type: ignore[misc]
            lines += 1
        else:
            marks.append((count.mark(), lines))
    for mark, before in marks:
        said = count.since(mark)
        assert said == "" if before == lines else f"sent {lines - before} line" in said and f"'{before}'" in said
