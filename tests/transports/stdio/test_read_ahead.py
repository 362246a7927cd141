"""A server's output that has not been handed on yet, and when the server last wrote something."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mcp_pool.transports.stdio.process import CHUNK
from mcp_pool.transports.stdio.read_ahead import PAGE, ReadAhead

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="read_ahead needs the pipes of POSIX; on Windows the transport is the SDK's"
)


@contextmanager
def pipe() -> Iterator[tuple[ReadAhead, int, list[None]]]:
    """A pipe that is read, the end to write to, and a list with one item per activity."""
    output, writer = os.pipe()
    activity = list[None]()
    try:
        yield ReadAhead(output, lambda: activity.append(None)), writer, activity
    finally:
        os.close(output)
        os.close(writer)


async def all_of(ahead: ReadAhead, length: int) -> bytes:
    """The next `length` bytes, in pages."""
    taken = b""
    while len(taken) < length:
        page = await ahead.page()
        assert 0 < len(page) <= PAGE
        taken += page
    return taken


async def test_the_bytes_come_out_in_order_and_then_the_end_of_the_stream() -> None:
    output, writer = os.pipe()
    ahead, written = ReadAhead(output, lambda: None), bytes(range(256)) * 100
    os.write(writer, written)
    os.close(writer)
    assert await all_of(ahead, len(written)) == written
    assert await ahead.page() == b""
    os.close(output)


async def test_each_look_that_finds_new_bytes_counts_as_activity_and_no_other() -> None:
    with pipe() as (ahead, writer, activity):
        ahead.look()
        assert len(activity) == 0
        os.write(writer, b"one")
        ahead.look()
        ahead.look()
        assert len(activity) == 1
        os.write(writer, b"two")
        ahead.look()
        assert len(activity) == 2
        assert await ahead.page() == b"onetwo"
        assert len(activity) == 2


async def test_no_more_is_held_than_there_is_room_for_and_bytes_left_in_the_pipe_count_as_activity_once() -> None:
    with pipe() as (ahead, writer, activity):
        for _ in range(2):  # one that is held and one that stays in the pipe
            os.write(writer, b"x" * CHUNK)
            ahead.look()
        assert len(activity) == 2
        for _ in range(CHUNK // PAGE):
            await ahead.page()
            ahead.look()  # reads what there is room for now
        assert len(activity) == 2
        os.write(writer, b"y")
        ahead.look()
        assert len(activity) == 3
        assert await all_of(ahead, CHUNK + 1) == b"x" * CHUNK + b"y"
