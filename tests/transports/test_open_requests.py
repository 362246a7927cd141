"""Which requests wait for an answer, and which of them an error without an id can be about."""

from __future__ import annotations

from typing import Any

from mcp_types import PROTOCOL_VERSION_META_KEY, JSONRPCRequest

from mcp_pool.transports.open_requests import OpenRequests


def request(request_id: int | str, method: str = "tools/call", version: str | None = None) -> JSONRPCRequest:
    """A request, of the modern protocol if a version is given."""
    params: dict[str, Any] | None = None if version is None else {"_meta": {PROTOCOL_VERSION_META_KEY: version}}
    return JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method, params=params)


def test_a_request_is_open_until_it_is_answered_whatever_way_its_id_is_written() -> None:
    requests = OpenRequests[str]()
    requests.add(request("7"), "me")
    assert 7 in requests
    answered = requests.remove("7")
    assert answered is not None
    assert (answered.method, answered.owner) == ("tools/call", "me")
    assert requests.remove(7) is None


def test_a_request_is_abandoned_by_its_owner_only() -> None:
    requests = OpenRequests[str]()
    requests.add(request(7), "me")
    for stranger in (None, "you"):
        requests.abandon(7, stranger)
    requests.abandon(8, "me")
    requests.abandon(None, None)
    assert 7 in requests
    requests.abandon("7", "me")
    assert 7 not in requests


def test_an_answer_must_keep_to_the_version_that_its_request_names_or_else_to_that_of_the_handshake() -> None:
    requests = OpenRequests[str]()
    requests.version = "2025-06-18"
    requests.add(request(1, version="2026-07-28"), None)
    requests.add(request(2), None)
    found = [requests.get(number) for number in (1, 2)]
    assert [each.version for each in found if each is not None] == ["2026-07-28", "2025-06-18"]


def test_a_handshake_forgets_the_probe_before_it() -> None:
    requests = OpenRequests[str]()
    requests.add(request(1, "server/discover"), None)
    requests.add(request(2, "initialize"), None)
    assert requests.sole == 2


def test_an_error_without_an_id_is_about_the_only_request_that_was_sent_last() -> None:
    requests = OpenRequests[str]()
    assert requests.sole is None
    requests.add(request(1), None)
    assert requests.sole == 1
    requests.add(request(2), None)
    assert requests.sole is None
    requests.remove(2)
    assert requests.sole is None  # it may be about the second all the same
    requests.remove(1)
    requests.add(request(3), None)
    assert requests.sole == 3


def test_an_error_without_an_id_may_be_about_a_notification_until_what_was_sent_later_is_answered() -> None:
    requests = OpenRequests[str]()
    requests.add(request(1), None)
    requests.note_other_message()
    assert requests.sole is None
    requests.remove(1)
    requests.add(request(2), None)
    assert requests.sole is None
    requests.remove(2)
    requests.add(request(3), None)
    assert requests.sole == 3
