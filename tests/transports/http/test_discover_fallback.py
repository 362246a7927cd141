"""What follows when `server/discover` fails in a way that says nothing about what the server supports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.calls import words
from helpers.common import eventually
from helpers.http import arrived, fault, raw_server
from helpers.http_calls import BOUND, MODERN, behind_url, hides_its_secrets
from mcp_pool import BackingOff, ConnectError, Failed, HttpServer, HttpStatusError, MCPPool, RestartPolicy

if TYPE_CHECKING:
    from pathlib import Path

NOT_NOW = RestartPolicy(initial_delay=1000, max_delay=1000)
LEGACY = "2025-11-25"
DISCOVER = "server/discover"
EVENT = 'data: {"hello": 1}\n\n'

UNANSWERED = {
    "a page": fault("status", 200),
    "nothing": fault("says", [200, "application/json", ""]),
    "accepted": fault("accepted"),
    "no content": fault("says", [204, "", ""]),
    "another id": fault("error", [200, -32601, "no such method", 999]),
    "broken JSON": fault("broken_json"),
    "other JSON": fault("not_rpc"),
    "another type": fault("content_type", "text/plain"),
    "a compression that was not applied": fault("content_encoding"),
    "a stream that ends": fault("half_stream", "end"),
    "a stream of something else": fault("says", [200, "text/event-stream", EVENT]),
}
"""Responses to `server/discover` that are not answers."""


def asked(ledger: Path) -> tuple[int, int]:
    """How often `server/discover` and `initialize` have arrived."""
    return len(arrived(ledger, DISCOVER)), len(arrived(ledger, "initialize"))


async def last_error(pool: MCPPool, spec: HttpServer, state: type[Any]) -> ConnectError:
    """The error of the first attempt, once the server is in this state."""
    pool.add("s", spec)
    await eventually(lambda: isinstance(pool.server("s").state, state))
    error = pool.server("s").last_error
    assert isinstance(error, ConnectError)
    assert error.attempt == 1
    assert hides_its_secrets(error)
    return error


@pytest.mark.parametrize("rule", UNANSWERED.values(), ids=UNANSWERED)
async def test_a_response_to_discover_that_is_no_answer_leads_to_the_legacy_handshake(
    rule: dict[str, Any], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server("--modern", ledger=ledger, faults=[{**rule, "on": DISCOVER}]) as server, MCPPool() as pool:
        with anyio.fail_after(BOUND):
            await pool.connect("s", behind_url(server))
        assert pool.server("s").info.protocol_version == LEGACY
        assert words(await pool.call_tool("s__echo", {"text": "greetings"})) == "greetings"
        assert asked(ledger) == (1, 1)
        await server.misbehave()
        await pool.server("s").restart()  # the server never said that it supports nothing else
        assert pool.server("s").info.protocol_version == MODERN


async def test_a_stream_that_is_resumed_answers_discover() -> None:
    rule = fault("half_stream", "end ids", on=DISCOVER)
    async with raw_server("--modern", faults=[rule]) as server, MCPPool({"s": behind_url(server)}) as pool:
        assert pool.server("s").info.protocol_version == MODERN


async def test_a_stream_that_cannot_be_resumed_leads_to_the_legacy_handshake() -> None:
    rules = [fault("half_stream", "end ids", on=DISCOVER), fault("status", 405, on="resume")]
    async with raw_server("--modern", faults=rules) as server, MCPPool({"s": behind_url(server)}) as pool:
        assert pool.server("s").info.protocol_version == LEGACY


@pytest.mark.parametrize("do", ["status", "error"])
@pytest.mark.parametrize("status", [401, 403])
async def test_discover_rejected_with_401_or_403_is_followed_by_the_legacy_handshake(
    status: int, do: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    rule = fault(do, status, on=DISCOVER)
    async with raw_server("--modern", ledger=ledger, faults=[rule]) as server, MCPPool() as pool:
        await pool.connect("s", behind_url(server))
        assert pool.server("s").info.protocol_version == LEGACY
        assert asked(ledger) == (1, 1)
        await server.misbehave()
        await pool.server("s").restart()
        assert pool.server("s").info.protocol_version == MODERN


@pytest.mark.parametrize(("mode", "requests"), [("auto", (1, 1)), ("legacy", (0, 1))])
async def test_credentials_that_initialize_rejects_stop_the_retries(
    mode: str, requests: tuple[int, int], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    rule = fault("status", 401, on="handshake")
    async with raw_server(ledger=ledger, faults=[rule]) as server, MCPPool() as pool:
        error = await last_error(pool, behind_url(server, mode=mode), Failed)
    assert "answered with HTTP status 401 (Bearer, 'Sorry') during initialize" in error.reason
    assert not error.retryable
    assert asked(ledger) == requests


async def test_a_failed_initialize_does_not_hide_that_discover_was_unauthorized() -> None:
    rule = fault("status", 403, on=DISCOVER)
    async with raw_server("--fail-initialize", faults=[rule]) as server, MCPPool() as pool:
        error = await last_error(pool, behind_url(server), Failed)
    assert isinstance(error.cause, HttpStatusError)
    assert (error.cause.status, error.retryable) == (403, False)
    assert (
        "answered with HTTP status 403 ('Sorry') during server/discover, then failed (MCPError: no handshake today)"
        in error.reason
    )
    assert "Correct headers or auth" in error.advice


async def test_a_listing_that_fails_is_not_blamed_on_a_discover_that_was_unauthorized() -> None:
    rule = fault("status", 403, on=DISCOVER)
    async with raw_server("--fail-list", faults=[rule]) as server, MCPPool() as pool:
        error = await last_error(pool, behind_url(server, restart=NOT_NOW), BackingOff)
    assert "the list is not available" in error.reason
    assert "403" not in error.reason


async def test_an_outage_after_a_discover_that_was_unauthorized_is_backed_off_from() -> None:
    rules = [fault("status", 403, on=DISCOVER), fault("status", 503, on="initialize")]
    async with raw_server(faults=rules) as server, MCPPool() as pool:
        error = await last_error(pool, behind_url(server, restart=NOT_NOW), BackingOff)
    assert "answered with HTTP status 503 ('Sorry') during initialize" in error.reason


async def test_a_server_that_says_it_is_modern_gets_only_one_initialize(tmp_path: Path) -> None:
    """It names the versions that it supports, so that the SDK asks once more with `server/discover`."""
    ledger = tmp_path / "ledger"
    modern = {"code": -32022, "message": "no", "data": {"supported": [MODERN], "requested": LEGACY}}
    refusal = json.dumps({"jsonrpc": "2.0", "id": "ID", "error": modern}).replace('"ID"', "@ID")
    rules = [fault("status", 401, on=DISCOVER), fault("says", [200, "application/json", refusal], on="initialize")]
    async with raw_server("--modern", ledger=ledger, faults=rules) as server, MCPPool() as pool:
        error = await last_error(pool, behind_url(server), Failed)
    assert "answered with HTTP status 401 (Bearer, 'Sorry') during server/discover" in error.reason
    assert asked(ledger) == (2, 1)


@pytest.mark.parametrize("lent", [False, True])
async def test_with_an_auth_that_could_ask_a_person_twice_the_first_rejection_is_final(
    lent: bool, tmp_path: Path
) -> None:
    ledger, auth = tmp_path / "ledger", httpx2.BasicAuth("user", "tulip-7f3a9c")
    rule = fault("status", 401, on=DISCOVER)
    async with (
        httpx2.AsyncClient(auth=auth) as client,
        raw_server(ledger=ledger, faults=[rule]) as server,
        MCPPool() as pool,
    ):
        fields: dict[str, Any] = {"http_client": client} if lent else {"auth": auth}
        error = await last_error(pool, HttpServer(server.url, **fields), Failed)
    assert "answered with HTTP status 401 (Bearer, 'Sorry') during server/discover" in error.reason
    assert asked(ledger) == (1, 0)
