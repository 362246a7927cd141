"""Splitting a stream of bytes into lines, however it is chunked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pool.transports.stdio.lines import LineSplitter, LineTooLong

AMPLE = 10**6
streams = st.lists(st.binary(max_size=20)).map(b"\n".join)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream of bytes in arbitrary chunks."""
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def split(splitter: LineSplitter, chunks: list[bytes]) -> list[bytes]:
    """All lines, and the rest at the end of the stream."""
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return [*lines, splitter.take()]


def outcome(chunks: list[bytes], limit: int) -> list[bytes] | None:
    """All lines and the rest; None if a line is too long."""
    splitter, lines = LineSplitter(limit), []
    try:
        for chunk in chunks:
            lines.extend(splitter.feed(chunk))
    except LineTooLong:
        return None
    return [*lines, splitter.take()]


@given(chunked())
def test_the_lines_are_the_same_however_the_stream_is_chunked(chunks: list[bytes]) -> None:
    assert split(LineSplitter(AMPLE), chunks) == b"".join(chunks).split(b"\n")


@given(chunked(), st.integers(0, 25))
def test_only_a_line_longer_than_the_limit_is_refused(chunks: list[bytes], limit: int) -> None:
    lines = b"".join(chunks).split(b"\n")
    assert outcome(chunks, limit) == (lines if max(map(len, lines)) <= limit else None)


@given(chunked(), st.integers(0, 25))
def test_with_cut_each_line_is_truncated_at_the_limit(chunks: list[bytes], limit: int) -> None:
    lines = b"".join(chunks).split(b"\n")
    assert split(LineSplitter(limit, cut=True), chunks) == [line[:limit] for line in lines]


def test_a_line_as_long_as_the_limit_is_accepted() -> None:
    assert list(LineSplitter(5).feed(b"12345\n")) == [b"12345"]


def test_a_line_one_byte_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(LineTooLong):
        list(LineSplitter(5).feed(b"123456\n"))


def test_a_line_is_refused_before_it_is_complete() -> None:
    splitter = LineSplitter(5)
    assert list(splitter.feed(b"12345")) == []
    with pytest.raises(LineTooLong):
        list(splitter.feed(b"6"))


def test_the_lines_before_one_that_is_too_long_are_returned() -> None:
    lines = LineSplitter(5).feed(b"one\ntwo\nthree hundred\n")
    assert [next(lines), next(lines)] == [b"one", b"two"]
    with pytest.raises(LineTooLong):
        next(lines)


@given(chunked(), st.integers(0, 25), st.booleans())
def test_no_more_bytes_are_held_than_the_limit(chunks: list[bytes], limit: int, cut: bool) -> None:
    splitter = LineSplitter(limit, cut=cut)
    for chunk in chunks:
        try:
            list(splitter.feed(chunk))
        except LineTooLong:
            assert held(splitter) == 0
            return
        assert held(splitter) <= limit


def test_truncated_bytes_are_not_held() -> None:
    splitter = LineSplitter(10, cut=True)
    for _ in range(1000):
        assert list(splitter.feed(b"x" * 1000)) == []
    assert held(splitter) == 10


def test_nothing_is_joined_before_a_line_is_complete() -> None:
    """Joining at each chunk would make the time for a long line quadratic."""
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


def test_take_discards_what_it_returns() -> None:
    splitter = LineSplitter(AMPLE)
    list(splitter.feed(b"rest"))
    assert (splitter.take(), splitter.take()) == (b"rest", b"")


def held(splitter: LineSplitter) -> int:
    """How many bytes a splitter holds."""
    return sum(map(len, splitter._pieces))
