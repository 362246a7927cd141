"""What answers and rejections say about a session, tested as decisions without a server or a clock."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp_types import METHOD_NOT_FOUND, ErrorData, JSONRPCError, JSONRPCResponse

from mcp_pool.transports.http.answers import parse_body
from mcp_pool.transports.http.session import Finding, Rejection, SessionEvidence
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit

NO_SESSION = Rejection(400, -32000, "Bad Request: No valid session ID provided")
PLAIN = Rejection(400)


def finding_of(rejection: Rejection, *, is_ping: bool = False, is_certain: bool = True) -> Finding:
    """The finding after a first rejection."""
    return SessionEvidence().note_rejection(rejection, is_ping=is_ping, is_certain=is_certain)


@pytest.mark.parametrize("rejection", [Rejection(404), Rejection(404, -32001, "Session not found")])
@pytest.mark.parametrize("is_ping", [False, True])
def test_404_without_an_answer_is_a_lost_session(rejection: Rejection, is_ping: bool) -> None:
    assert finding_of(rejection, is_ping=is_ping) is Finding.LOST


def test_404_whose_body_may_have_contained_the_answer_only_raises_a_suspicion() -> None:
    assert finding_of(Rejection(404), is_certain=False) is Finding.SUSPECT


@pytest.mark.parametrize("status", [400, 401, 403, 405, 409, 413, 422, 499])
def test_any_other_4xx_without_an_answer_raises_a_suspicion(status: int) -> None:
    assert finding_of(Rejection(status)) is Finding.SUSPECT


@pytest.mark.parametrize("status", [304, 429, 500, 502, 503])
def test_429_and_other_statuses_than_4xx_raise_no_suspicion(status: int) -> None:
    assert finding_of(Rejection(status)) is Finding.NOTHING


def test_only_the_same_error_for_two_consecutive_calls_raises_a_suspicion() -> None:
    evidence = SessionEvidence()
    assert evidence.note_answer(NO_SESSION, is_ping=False) is Finding.NOTHING
    assert evidence.note_answer(NO_SESSION, is_ping=False) is Finding.SUSPECT


@pytest.mark.parametrize(
    "between",
    [
        None,
        Rejection(400, -32000, "other words"),
        Rejection(400, -32001, NO_SESSION.message),
        Rejection(200, NO_SESSION.code, NO_SESSION.message),
    ],
)
def test_errors_that_differ_or_are_not_consecutive_raise_no_suspicion(between: Rejection | None) -> None:
    evidence = SessionEvidence()
    for error in (NO_SESSION, between, NO_SESSION, between):
        assert evidence.note_answer(error, is_ping=False) is Finding.NOTHING


def test_a_server_that_fails_every_call_with_the_same_error_is_suspected_at_every_second_one() -> None:
    evidence = SessionEvidence()
    findings = [evidence.note_answer(NO_SESSION, is_ping=False) for _ in range(4)]
    assert findings == [Finding.NOTHING, Finding.SUSPECT] * 2


def test_the_answer_to_a_ping_raises_no_suspicion() -> None:
    evidence = SessionEvidence()
    for is_ping in (True, True, False, True):
        assert evidence.note_answer(NO_SESSION, is_ping=is_ping) is Finding.NOTHING


def test_a_ping_rejected_by_a_page_raises_no_suspicion_unless_a_ping_was_answered_before() -> None:
    evidence = SessionEvidence()
    assert evidence.note_rejection(PLAIN, is_ping=True, is_certain=True) is Finding.NOTHING
    assert evidence.note_rejection(NO_SESSION, is_ping=True, is_certain=True) is Finding.SUSPECT
    evidence.note_answer(None, is_ping=True)
    assert evidence.note_rejection(PLAIN, is_ping=True, is_certain=True) is Finding.SUSPECT


@pytest.mark.parametrize(
    ("suspicion", "ping", "is_confirmed"),
    [
        (PLAIN, PLAIN, True),
        (NO_SESSION, NO_SESSION, True),
        (PLAIN, Rejection(403), False),
        (NO_SESSION, Rejection(400, -32000, "other words"), False),
        (NO_SESSION, Rejection(400, -32001, NO_SESSION.message), False),
        (NO_SESSION, PLAIN, False),
        (
            Rejection(400, METHOD_NOT_FOUND, "Method not found"),
            Rejection(400, METHOD_NOT_FOUND, "Method not found"),
            False,
        ),
    ],
)
def test_a_ping_rejected_identically_confirms_a_suspicion_unless_its_method_is_unknown(
    suspicion: Rejection, ping: Rejection, is_confirmed: bool
) -> None:
    assert suspicion.is_confirmed_by(ping) is is_confirmed


def test_a_session_may_be_replaced_once_per_stable_after() -> None:
    renewal_limit = SessionRenewalLimit(60)
    assert [renewal_limit.claim(now) for now in (0, 1, 59, 60, 61, 120)] == [True, False, False, True, False, True]


RESULT = {"jsonrpc": "2.0", "id": 7, "result": {}}
ERROR = {"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": "wrong"}}


@pytest.mark.parametrize(("message", "kind"), [(RESULT, JSONRPCResponse), (ERROR, JSONRPCError)])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "", "text/event-stream"])
def test_an_answer_is_found_whatever_the_content_type_says(message: Any, kind: type, content_type: str) -> None:
    body = json.dumps(message)
    if content_type == "text/event-stream":
        body = f'data: {{"jsonrpc": "2.0", "method": "notifications/x"}}\n\ndata: {body}'
    parsed = parse_body(body.encode(), content_type, 7, 10_000)
    assert isinstance(parsed.answer, kind)


@pytest.mark.parametrize("other", [None, "server-error", 8])
def test_an_error_with_another_id_is_the_servers_error_but_not_the_answer(other: Any) -> None:
    parsed = parse_body(json.dumps(ERROR | {"id": other}).encode(), "application/json", 7, 10_000)
    assert (parsed.answer, parsed.is_certain) == (None, True)
    assert parsed.error == JSONRPCError(jsonrpc="2.0", id=7, error=ErrorData(code=-32602, message="wrong"))


def test_an_error_without_an_id_is_the_servers_error() -> None:
    body = json.dumps({key: value for key, value in ERROR.items() if key != "id"})
    parsed = parse_body(body.encode(), "application/json", 7, 10_000)
    assert (parsed.answer, parsed.is_certain) == (None, True)
    assert parsed.error == JSONRPCError(jsonrpc="2.0", id=7, error=ErrorData(code=-32602, message="wrong"))


@pytest.mark.parametrize("body", ["", "<html>", '{"detail": "Not Found"}', "[]", '{"id": 8}', '{"id": null}'])
def test_a_body_without_the_id_of_the_request_certainly_contains_no_answer(body: str) -> None:
    parsed = parse_body(body.encode(), "application/json", 7, 10_000)
    assert (parsed.answer, parsed.error, parsed.is_certain) == (None, None, True)


def test_a_malformed_body_with_the_id_of_the_request_may_be_its_answer() -> None:
    assert not parse_body(b'{"id": 7, "error": "broken"}', "application/json", 7, 10_000).is_certain


def test_an_event_that_is_too_long_may_contain_the_answer() -> None:
    assert not parse_body(b"data: " + b"x" * 20, "text/event-stream", 7, 10).is_certain
