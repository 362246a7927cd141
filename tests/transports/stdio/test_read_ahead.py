"""What has been read of a server's output and not looked at yet, and when the server last wrote."""

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
    """A pipe that is read, the end to write to, and an item for each activity."""
    output, writer = os.pipe()
    heard = list[None]()
    try:
        yield ReadAhead(output, lambda: heard.append(None)), writer, heard
    finally:
        os.close(output)
        os.close(writer)


async def all_of(ahead: ReadAhead, length: int) -> bytes:
    """So many bytes, in pages."""
    taken = b""
    while len(taken) < length:
        page = await ahead.page()
        assert 0 < len(page) <= PAGE
        taken += page
    return taken


async def test_what_was_written_comes_out_in_order_and_then_the_end() -> None:
    output, writer = os.pipe()
    ahead, written = ReadAhead(output, lambda: None), bytes(range(256)) * 100
    os.write(writer, written)
    os.close(writer)
    assert await all_of(ahead, len(written)) == written
    assert await ahead.page() == b""
    os.close(output)


async def test_each_look_at_something_new_is_a_activity_and_no_other() -> None:
    with pipe() as (ahead, writer, heard):
        ahead.look()
        assert len(heard) == 0
        os.write(writer, b"one")
        ahead.look()
        ahead.look()
        assert len(heard) == 1
        os.write(writer, b"two")
        ahead.look()
        assert len(heard) == 2
        assert await ahead.page() == b"onetwo"
        assert len(heard) == 2


async def test_no_more_is_held_than_there_is_room_for_and_what_stayed_in_the_pipe_is_a_sign_once() -> None:
    with pipe() as (ahead, writer, heard):
        for _ in range(2):  # what is held, and what stays
            os.write(writer, b"x" * CHUNK)
            ahead.look()
        assert len(heard) == 2
        for _ in range(CHUNK // PAGE):
            await ahead.page()
            ahead.look()  # takes out of the pipe what there is room for now
        assert len(heard) == 2
        os.write(writer, b"y")
        ahead.look()
        assert len(heard) == 3
        assert await all_of(ahead, CHUNK + 1) == b"x" * CHUNK + b"y"
