"""Bytes in, lines out, however the chunks fall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pool.transports.stdio.lines import LineSplitter, LineTooLong

AMPLE = 10**6
streams = st.lists(st.binary(max_size=20)).map(b"\n".join)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream of bytes, cut anywhere."""
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def split(splitter: LineSplitter, chunks: list[bytes]) -> list[bytes]:
    """All lines, and what is left at the end of the stream."""
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*lines, splitter.take()]


def outcome(chunks: list[bytes], limit: int) -> list[bytes] | None:
    """The lines that come before one that is too long; None added where there is one."""
    splitter, lines = LineSplitter(limit), []
    try:
        for chunk in chunks:
            lines.extend(splitter.feed(chunk))
    except LineTooLong:
        return None
    return [*lines, splitter.take()]


@given(chunked())
def test_the_lines_are_those_of_the_stream_however_it_is_cut(chunks: list[bytes]) -> None:
    assert split(LineSplitter(AMPLE), chunks) == b"".join(chunks).split(b"\n")


@given(chunked(), st.integers(0, 25))
def test_a_stream_is_refused_exactly_when_a_line_is_longer_than_the_limit(chunks: list[bytes], limit: int) -> None:
    lines = b"".join(chunks).split(b"\n")
    assert outcome(chunks, limit) == (lines if max(map(len, lines)) <= limit else None)


@given(chunked(), st.integers(0, 25))
def test_where_lines_are_cut_each_is_cut_at_the_limit(chunks: list[bytes], limit: int) -> None:
    lines = b"".join(chunks).split(b"\n")
    assert split(LineSplitter(limit, cut=True), chunks) == [line[:limit] for line in lines]


def test_a_line_as_long_as_the_limit_passes() -> None:
    assert list(LineSplitter(5).feed(b"12345\n")) == [b"12345"]


def test_a_line_of_one_byte_more_does_not() -> None:
    with pytest.raises(LineTooLong):
        list(LineSplitter(5).feed(b"123456\n"))


def test_a_line_is_refused_before_it_ends() -> None:
    splitter = LineSplitter(5)
    assert list(splitter.feed(b"12345")) == []
    with pytest.raises(LineTooLong):
        list(splitter.feed(b"6"))


def test_the_lines_before_one_that_is_too_long_still_arrive() -> None:
    lines = LineSplitter(5).feed(b"one\ntwo\nthree hundred\n")
    assert [next(lines), next(lines)] == [b"one", b"two"]
    with pytest.raises(LineTooLong):
        next(lines)


@given(chunked(), st.integers(0, 25), st.booleans())
def test_never_is_more_held_than_the_limit(chunks: list[bytes], limit: int, cut: bool) -> None:
    splitter = LineSplitter(limit, cut=cut)
    for chunk in chunks:
        try:
            list(splitter.feed(chunk))
        except LineTooLong:
            assert held(splitter) == 0
            return
        assert held(splitter) <= limit


def test_what_is_cut_off_is_not_held() -> None:
    splitter = LineSplitter(10, cut=True)
    for _ in range(1000):
        assert list(splitter.feed(b"x" * 1000)) == []
    assert held(splitter) == 10


def test_nothing_is_joined_before_a_line_has_ended() -> None:
    """Joining at each chunk would make the time for a long line grow with its square."""
    chunk = bytes(1000)
    splitter = LineSplitter(AMPLE)
    for _ in range(500):
        assert list(splitter.feed(chunk)) == []
    assert len(splitter._pieces) == 500
    assert max(map(len, splitter._pieces)) == len(chunk)
    assert [len(line) for line in splitter.feed(b"\n")] == [500_000]


def test_empty_chunks_are_not_held() -> None:
    splitter = LineSplitter(AMPLE)
    for _ in range(100):
        list(splitter.feed(b""))
    assert splitter._pieces == []


def test_what_was_taken_is_forgotten() -> None:
    splitter = LineSplitter(AMPLE)
    list(splitter.feed(b"rest"))
    assert (splitter.take(), splitter.take()) == (b"rest", b"")


def held(splitter: LineSplitter) -> int:
    """The bytes that a splitter really holds."""
    return sum(map(len, splitter._pieces))
