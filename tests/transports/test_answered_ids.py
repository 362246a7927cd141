"""Which requests something answers that cannot be read as a message, and what is said of it."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import RequestId, jsonrpc_message_adapter

from helpers.unreadable import NO_ANSWERS, OK, READABLE, SPOILT, with_id
from mcp_pool._shared.redaction import Redactor
from mcp_pool.transports import answered_ids as module
from mcp_pool.transports.answered_ids import MAX_OBJECTS, answered_ids, problem
from mcp_pool.transports.messages import BOM, NotAMessage, parse, parse_message

if TYPE_CHECKING:
    from collections.abc import Callable

ID = 41


def ids(data: bytes) -> list[RequestId]:
    """The requests that data answers, which is not a message."""
    found = parse(data)
    assert isinstance(found, NotAMessage)
    return answered_ids(found)


def problem_of(data: bytes) -> str:
    """What is wrong with it."""
    found = parse(data)
    assert isinstance(found, NotAMessage)
    return problem(found)


@pytest.mark.parametrize("kind", SPOILT)
def test_an_answer_that_cannot_be_read_names_its_request_and_what_is_wrong(kind: str) -> None:
    data, words = SPOILT[kind]
    line = with_id(data, ID)
    assert ids(line) == [ID]
    assert words in problem_of(line)


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_what_is_no_answer_names_no_request_that_is_open(kind: str) -> None:
    for line in with_id(NO_ANSWERS[kind], ID).split(b"\n"):
        assert ID not in ids(line)


@pytest.mark.parametrize("kind", READABLE)
def test_what_can_be_read_is_a_message(kind: str) -> None:
    assert parse_message(with_id(READABLE[kind], ID).removeprefix(BOM)) is not None


def test_a_byte_order_mark_is_told() -> None:
    assert problem_of(BOM + with_id(OK % b"x", ID)) == "there is a byte order mark before the JSON"


def test_only_so_many_objects_are_looked_at() -> None:
    batch = [with_id(OK % b"x", number) for number in range(MAX_OBJECTS + 1)]
    for line in (b"[%s]" % b",".join(batch), b"log: " + b" ".join(batch)):
        assert ids(line) == list(range(MAX_OBJECTS))


def test_a_batch_names_all_its_requests() -> None:
    batch = b"[%s]" % b",".join(with_id(OK % b"x", number) for number in (3, 5, 8))
    assert ids(batch) == [3, 5, 8]


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":41,"result":{"text":"cu',
        b'{ "id" : 41 , "jsonrpc" : "2.0" , "result":{"text":"cu',
        b'{"id":"41","error":{"code":-32000,"message":"cu',
        b'{"result":{"text":"a "quoted" word"},"jsonrpc":"2.0","id":41}',
        b'{"error":{"message":"a "quoted" word"},"id":41,"jsonrpc":"2.0"} \r',
    ],
)
def test_an_id_is_found_at_the_start_or_at_the_end_of_what_is_broken_between(line: bytes) -> None:
    assert ids(line) == [ID]


def test_an_id_in_the_midst_of_what_is_broken_is_not_believed() -> None:
    assert ids(b'{"result":{"rows":[{"x":1,"id":41}],"text":"a "quoted" word"}') == []


# Mutilated in any way

messages = st.builds(
    lambda text, request_id, at_end: json.dumps(
        {"result": {"text": text}, "id": request_id}
        if at_end
        else {"id": request_id, "result": {"text": text}} | {"jsonrpc": "2.0"}
    ).encode(),
    st.text(max_size=30),
    st.one_of(st.integers(-5, 10**6), st.text(max_size=9), st.none(), st.floats()),
    st.booleans(),
)
PIECES = (
    b"",
    b'"',
    b"{",
    b"}",
    b"[",
    b"\\",
    b"\xff",
    b"\0",
    b'"id"',
    b'"id":7,',
    b',"result"',
    b":",
    b" " * 50,
    b"9" * 5000,
)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """Messages, one behind the other, with pieces taken out, put in, or both."""
    line = b"".join(draw(st.lists(messages, min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, min(len(line), start + 20)))
        line = line[:start] + draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8))) + line[end:]
    return line


@given(mutilated())
def test_whatever_arrives_it_is_told_what_it_is_and_nothing_is_raised(line: bytes) -> None:
    assert "\n" not in Redactor.of(()).quote(line)
    found = parse(line)
    if isinstance(found, NotAMessage):
        assert all(type(request_id) in (int, str) for request_id in answered_ids(found))
        assert problem(found)


@given(mutilated())
def test_what_is_a_message_is_one_for_the_sdk_and_the_same(line: bytes) -> None:
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        assert parse_message(line) is None
    else:
        assert repr(parse_message(line)) == repr(message)  # nan is not equal to itself


@given(st.lists(st.sampled_from([*PIECES, b'{"id":1}', b'{"id":', b'{"result":', b"[" * 200]), max_size=200))
def test_no_byte_is_parsed_twice_and_what_is_parsed_is_bounded(pieces: list[bytes]) -> None:
    spans: list[tuple[int, int]] = []
    parse: Callable[..., Any] = module._DECODER.raw_decode

    class Noting:
        def raw_decode(self, text: str, start: int) -> tuple[Any, int]:
            spans.append((start, len(text)))
            found, end = parse(text, start)
            spans[-1] = start, end
            return found, end

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_DECODER", Noting())
        answered_ids(NotAMessage(b"".join(pieces), None, ValueError()))
    assert len(spans) <= MAX_OBJECTS
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
