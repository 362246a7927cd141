"""Event streams are opened again at the pool's own pace, whatever the server wishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.clock import virtual_backends
from mcp_pool.transports.http.event_streams import EventReader
from mcp_pool.transports.http.stream_pace import DEFAULT_DELAY, MAX_DELAY, MIN_DELAY, StreamPace

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def hear(pace: StreamPace, line: bytes) -> None:
    """Let a pace see an event with this line, which the SDK must not see."""
    event = b"id: 1\n" + line + b"\ndata: hello\n\n"
    assert [pace.revise(event) for event in EventReader(10000).events(event)] == [b"retry: 0\nid: 1\ndata: hello\n\n"]


async def delays(pace: StreamPace, *, count: int, lasts: float = 0.0, messages: bool = False) -> Sequence[float]:
    """How long the pace waits before each of this many repetitions, each of which lasts so long."""
    found = list[float]()
    for _ in range(count):
        pace.note_end()
        ended = anyio.current_time()
        await pace.wait()
        found.append(round(anyio.current_time() - ended, 6))
        await anyio.sleep(lasts)
        if messages:
            pace.note_progress()
    return found


async def test_a_stream_that_may_be_opened_at_once_is_opened_more_and_more_slowly() -> None:
    pace = StreamPace()
    hear(pace, b"retry:0")
    expected = [min(MIN_DELAY * 2**number, MAX_DELAY) for number in range(12)]
    assert await delays(pace, count=12) == pytest.approx(expected)


async def test_a_stream_whose_server_does_not_say_when_waits_for_the_default_at_first() -> None:
    assert await delays(StreamPace(), count=4) == pytest.approx([DEFAULT_DELAY] * 3 + [2 * DEFAULT_DELAY])


@pytest.mark.parametrize("options", [{"messages": True}, {"lasts": 5.0}])
async def test_a_stream_that_brings_messages_or_lasts_is_not_slowed_down(options: dict[str, float]) -> None:
    pace = StreamPace()
    hear(pace, b"retry: 500 ")
    assert await delays(pace, count=20, **options) == pytest.approx([0.5] * 20)  # type: ignore[arg-type]


@pytest.mark.parametrize("wish", [b"1000000000", b"9" * 400, b"9" * 5000])
async def test_a_wish_for_a_very_long_wait_is_cut_to_the_maximum(wish: bytes) -> None:
    pace = StreamPace()
    hear(pace, b"retry: " + wish)
    assert await delays(pace, count=2) == pytest.approx([MAX_DELAY] * 2)


@pytest.mark.parametrize("wish", [b"", b"soon", b"-1", b"1.5", b"1e9"])
async def test_a_wish_that_is_not_a_number_is_ignored(wish: bytes) -> None:
    pace = StreamPace()
    hear(pace, b"retry: " + wish)
    assert await delays(pace, count=1) == pytest.approx([DEFAULT_DELAY])
