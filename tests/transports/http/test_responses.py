"""Event streams are parsed, waits are cancelled, and requests raise plain errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.calls import Outcome
from mcp_pool.transports.http.event_streams import EventReader
from mcp_pool.transports.http.exchange import forward_request
from mcp_pool.transports.http.responses import CancellableWait, TooLong, WaitCancelled

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=30)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.lists(TEXTS, min_size=1, max_size=3)),
        st.tuples(st.just("other"), st.lists(TEXTS, max_size=2)),
        st.tuples(st.just("comment"), st.lists(TEXTS, max_size=2)),
    ),
    max_size=8,
)


def stream(events: Sequence[tuple[str, list[str]]], end: str) -> bytes:
    """Events as bytes, with the given line endings."""
    lines = list[str]()
    for number, (kind, texts) in enumerate(events):
        if kind == "comment":
            lines += [f":{text}" for text in texts]
        else:
            lines += [f"id: {number}", *(f"data: {text}" for text in texts)]
            lines += ["event: other"] if kind == "other" else ["event:message"] if number % 2 else []
        lines.append("")
    return "".join(line + end for line in lines).encode()


def messages(pieces: Sequence[bytes], limit: int = 1000) -> list[bytes]:
    """The messages in a stream that arrives in these pieces."""
    reader = EventReader(limit)
    return [message for piece in pieces for message in reader.feed(piece)]


@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(1, 40), max_size=20))
def test_messages_are_found_however_the_stream_is_split(
    events: list[tuple[str, list[str]]], end: str, sizes: list[int]
) -> None:
    whole, pieces = stream(events, end), list[bytes]()
    rest = whole
    for size in sizes:
        pieces += [rest[:size], b""]
        rest = rest[size:]
    found = messages([*pieces, rest, b""])  # an empty piece changes nothing, not even within a CRLF
    assert found == ["\n".join(texts).encode() for kind, texts in events if kind == "message"]


@given(st.integers(1, 5000), st.integers(1, 200))
def test_an_event_that_is_too_long_is_rejected_before_it_is_buffered(length: int, size: int) -> None:
    event = b"data: " + b"x" * length
    pieces = [event[start : start + size] for start in range(0, len(event), size)]
    if len(event) > 1000:
        with pytest.raises(TooLong):
            messages([*pieces, b"\n\n"])
    else:
        assert messages([*pieces, b"\n\n"]) == [b"x" * length]


def test_the_lines_of_an_event_count_together_without_comments_or_other_events() -> None:
    assert messages([b": still there\n"] * 1000 + [b"data: on\n\n"] * 1000, limit=20) == [b"on"] * 1000
    with pytest.raises(TooLong):
        messages([b"data: on\n"] * 1000, limit=1000)


async def test_a_cancelled_wait_ends_and_no_other_starts() -> None:
    wait, waiting, late = CancellableWait(), Outcome(), Outcome()
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.of, wait.run, anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        wait.cancel()
    await late.of(wait.run, anyio.sleep_forever)
    assert {type(waiting.error), type(late.error)} == {WaitCancelled}


async def test_a_wait_that_is_not_cancelled_returns_or_raises() -> None:
    wait = CancellableWait()

    async def fail() -> None:
        raise LookupError

    async def succeed() -> int:
        return 1

    with pytest.raises(LookupError):
        await wait.run(fail)
    assert await wait.run(succeed) == 1


class Stop(BaseException):
    """An exception that ends the program."""


@pytest.mark.parametrize("trouble", [Stop(), BaseExceptionGroup("both", [Stop(), LookupError()])])
async def test_exceptions_that_end_the_program_pass_through_a_request(trouble: BaseException) -> None:
    async def forward(_request: httpx2.Request) -> httpx2.Response:
        raise trouble

    with pytest.raises(type(trouble)) as caught:
        await forward_request(httpx2.Request("POST", "http://nowhere.invalid"), forward)
    assert caught.value is trouble


async def test_a_failed_request_raises_one_error_without_a_group_among_its_causes() -> None:
    async def forward(_request: httpx2.Request) -> httpx2.Response:
        error = LookupError("the outermost")
        error.__cause__ = ExceptionGroup("several", [ExceptionGroup("attempts", [OSError("the innermost")])])
        raise ExceptionGroup("one", [error])

    with pytest.raises(LookupError) as caught:
        await forward_request(httpx2.Request("POST", "http://nowhere.invalid"), forward)
    assert isinstance(caught.value.__cause__, OSError)
