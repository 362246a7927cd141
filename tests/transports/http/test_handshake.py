"""The handshake over HTTP: failures are reported, and only the server's responses decide which protocol it speaks."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.calls import PROTOCOLS, words
from helpers.common import eventually
from helpers.http import arrived, fault, raw_server, refused_port, sdk_server
from helpers.http_calls import BOUND, MODERN, PLACE, behind_url, connected, hides_its_secrets
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectTimeout,
    Failed,
    HttpServer,
    HttpStatusError,
    MCPPool,
    RestartPolicy,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SOON = RestartPolicy(initial_delay=0.01, multiplier=1.0)
NOT_NOW = RestartPolicy(initial_delay=1000, max_delay=1000)
LEGACY = "2025-11-25"
FIRST = {(): "initialize", ("--modern",): "discover"}
"""The phase of the handshake in each protocol."""
REQUESTS = {"discover": "server/discover", "initialize": "initialize", "list": "tools/list"}


async def failure(pool: MCPPool, spec: HttpServer) -> ConnectError:
    """The error of a failed connection attempt, after a check that it shows no secrets."""
    with anyio.fail_after(BOUND), pytest.raises(ConnectError) as caught:
        await pool.connect("s", spec)
    assert hides_its_secrets(caught.value)
    return caught.value


async def test_a_server_that_refuses_connections_is_named_by_its_origin() -> None:
    with refused_port() as port:
        async with MCPPool() as pool:
            error = await failure(pool, HttpServer(f"http://user:password@127.0.0.1:{port}/{PLACE}/mcp"))
    assert f"could not be reached at http://127.0.0.1:{port} (connection refused) during server/discover" in str(error)
    assert isinstance(error.__cause__, httpx2.ConnectError)
    assert error.retryable


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("phase", ["first", "list"])
async def test_a_silent_server_times_out(protocol: tuple[str, ...], phase: str) -> None:
    phase = FIRST[protocol] if phase == "first" else phase
    async with raw_server(*protocol, faults=[fault("silent", on=REQUESTS[phase])]) as server, MCPPool() as pool:
        error = await failure(pool, behind_url(server, connect_timeout=2.0))
        assert isinstance(error, ConnectTimeout)
        assert f"did not finish {REQUESTS[phase]} within connect_timeout=2.0 s" in str(error)
        assert error.phase == phase


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("phase", ["initialize", "list"])
async def test_a_server_that_rejects_the_credentials_fails_until_they_are_corrected(
    protocol: tuple[str, ...], phase: str
) -> None:
    request = "handshake" if phase == "initialize" else "tools/list"
    async with raw_server(*protocol) as server, MCPPool(restart=SOON) as pool:
        for status, do in product((401, 403), ("status", "error")):
            await server.misbehave(fault(do, status, on=request))
            pool.add("s", behind_url(server))
            await eventually(lambda: isinstance(pool.server("s").state, Failed))
            error: Any = pool.server("s").last_error
            assert isinstance(error.__cause__, HttpStatusError)
            assert (error.__cause__.status, error.phase, error.attempt) == (status, phase, 1)
            assert not error.retryable
            assert f"answered with HTTP status {status} (" in str(error)
            assert f") during {REQUESTS[phase]}" in str(error)
            assert "Correct headers or auth: pass a new spec to replace(), or to connect()" in str(error)
            assert hides_its_secrets(error)
            await server.misbehave()
            await pool.server("s").restart()
            assert pool.server("s").generation == 1
            await pool.disconnect("s")


FAILURES = {
    "500": (fault("status", 500), "HTTP status 500", 500),
    "503": (fault("status", 503), "HTTP status 503", 503),
    "429": (fault("status", 429), "HTTP status 429", 429),
    "reset": (fault("reset"), "did not complete the request (ReadError)", None),
    "close": (fault("close"), "did not complete the request (RemoteProtocolError)", None),
    "half a body": (fault("half_body"), "did not complete the request (RemoteProtocolError)", None),
    "broken JSON": (fault("broken_json"), "HTTP status 200 and", None),
    "a page": (fault("content_type", "text/html"), "bytes of text/html", None),
}
"""Failures in the handshake, and what is reported."""
OUTAGES = list(FAILURES)[:6]
"""Those that say nothing about the protocol of the server even in response to `server/discover`."""
COMMON = list(FAILURES)[:5]
"""Those that can also happen to a request that the server would reject anyway."""


@pytest.mark.parametrize(
    ("protocol", "phase", "failures"),
    [
        pytest.param(("--modern",), "discover", OUTAGES, id="modern, discover"),
        pytest.param(("--modern",), "list", FAILURES, id="modern, list"),
        pytest.param((), "discover", COMMON, id="legacy, discover"),
        pytest.param((), "initialize", FAILURES, id="legacy, initialize"),
        pytest.param((), "list", FAILURES, id="legacy, list"),
    ],
)
async def test_an_outage_in_the_handshake_is_reported_and_backed_off_from_and_not_mistaken_for_the_legacy_protocol(
    protocol: tuple[str, ...], phase: str, failures: Iterable[str], tmp_path: Path
) -> None:
    ledger, request = tmp_path / "ledger", REQUESTS[phase]
    async with raw_server(*protocol, ledger=ledger) as server, MCPPool(restart=SOON) as pool:
        for failed in failures:
            rule, reported, status = FAILURES[failed]
            await server.misbehave({**rule, "on": request})
            handshakes = len(arrived(ledger, "initialize"))
            error = await failure(pool, behind_url(server))
            assert (error.phase, error.attempt, error.retryable) == (phase, 1, True), failed
            assert reported in str(error)
            assert f"during {request}" in str(error)
            assert getattr(error.__cause__, "status", None) == status
            assert phase != "discover" or len(arrived(ledger, "initialize")) == handshakes, failed
            await server.misbehave({**rule, "on": request, "times": 2})
            pool.add("s", behind_url(server))
            await connected(pool, 1)
            assert pool.snapshot().servers["s"].attempt == 3
            assert pool.server("s").info.protocol_version == (MODERN if protocol else LEGACY)
            await pool.disconnect("s")
        assert not protocol or not arrived(ledger, "initialize")


async def test_a_server_with_an_outage_is_tried_again_later() -> None:
    async with raw_server(faults=[fault("status", 503)]) as server, MCPPool() as pool:
        pool.add("s", behind_url(server, restart=NOT_NOW))
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))
        error = str(pool.server("s").last_error)
        assert "answered with HTTP status 503 ('Sorry') during server/discover. Check the server's log." in error
        assert 'If it is a legacy server that does not answer this request, set mode="legacy".' in error


@pytest.mark.parametrize("status", [404, 405])
async def test_a_url_without_a_server_is_an_error_that_says_so(status: int) -> None:
    async with raw_server(faults=[fault("status", status)]) as server, MCPPool() as pool:
        error = await failure(pool, behind_url(server))
        assert f"answered with HTTP status {status} ('Sorry') during initialize" in str(error)
        assert "Check that there is an MCP server at this URL." in str(error)
        assert isinstance(error.__cause__, HttpStatusError)
        assert (error.phase, error.__cause__.status, error.retryable) == ("initialize", status, True)


async def test_a_redirect_to_another_origin_is_reported_without_its_full_url() -> None:
    rule = fault("redirect", f"http://elsewhere.invalid/{PLACE}?key=word")
    async with raw_server(faults=[rule]) as server, MCPPool() as pool:
        error = await failure(pool, HttpServer(server.url))
        assert "redirects to http://elsewhere.invalid, which is not followed" in str(error)


async def test_a_redirect_within_the_origin_is_followed() -> None:
    rule = fault("redirect", "/new/mcp", on="tools/call:echo", times=1)
    async with raw_server("--modern", faults=[rule]) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        assert words(await pool.call_tool("s__echo", {"text": "there"})) == "there"


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_a_server_without_server_discover_gets_the_legacy_handshake(status: int, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    rule = fault("status", status, on="server/discover")
    async with raw_server(ledger=ledger, faults=[rule]) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        assert pool.server("s").info.protocol_version == LEGACY
        assert words(await pool.call_tool("s__echo", {"text": "greetings"})) == "greetings"


async def test_an_earlier_failure_is_not_reported_as_the_cause_of_a_later_one() -> None:
    rule = fault("status", 404, on="server/discover")
    async with raw_server("--fail-list", faults=[rule]) as server, MCPPool() as pool:
        error = await failure(pool, behind_url(server))
        assert "the list is not available" in str(error)
        assert "404" not in str(error)


async def test_a_session_lost_in_the_handshake_is_reported() -> None:
    async with raw_server(faults=[fault("session_lost", on="tools/list")]) as server, MCPPool() as pool:
        error = await failure(pool, behind_url(server))
        assert "no longer knows the session during tools/list" in str(error)


async def test_a_session_rejected_in_the_handshake_fails_it_without_a_ping(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger, faults=[fault("status", 400, on="tools/list")]) as server, MCPPool() as pool:
        error = await failure(pool, behind_url(server))
        assert "answered with HTTP status 400 ('Sorry') during tools/list" in str(error)
    assert arrived(ledger, "ping") == []


async def test_the_legacy_protocol_is_remembered_until_a_handshake_fails(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def asked() -> tuple[int, int]:
        return len(arrived(ledger, "server/discover")), len(arrived(ledger, "initialize"))

    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url, restart=SOON)}) as pool:
        assert asked() == (1, 1)
        await pool.server("s").restart()
        assert asked() == (1, 2)
        await server.misbehave(fault("status", 503, on="initialize", times=1))
        with pytest.raises(ConnectError):
            await pool.server("s").restart()
        await connected(pool, 3)
        assert asked() == (2, 4)


async def test_a_server_upgraded_to_the_modern_protocol_is_detected(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url, restart=SOON)}) as pool:
        assert pool.server("s").info.protocol_version == LEGACY
        await server.order(options={"modern": True}, faults=[fault("status", 500, on="initialize", times=1)])
        with pytest.raises(ConnectError):
            await pool.server("s").restart()
        await connected(pool, 2)
        assert pool.server("s").info.protocol_version == MODERN


async def test_a_modern_server_stays_modern(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server("--modern", ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON), "pinned": HttpServer(server.url, mode=MODERN)}) as pool,
    ):
        await pool.server("s").restart()
        await server.misbehave(fault("status", 503, on="tools/list", times=2))
        with pytest.raises(ConnectError):
            await pool.server("s").restart()
        await connected(pool, 3)
        assert {handle.info.protocol_version for handle in pool.servers.values()} == {MODERN}
        assert not arrived(ledger, "initialize")
        assert {line["headers"]["mcp-protocol-version"] for line in arrived(ledger)} == {MODERN}


async def test_servers_of_both_protocols_work_side_by_side(tmp_path: Path) -> None:
    async with (
        sdk_server() as modern,
        sdk_server("--legacy-only") as legacy,
        MCPPool({"modern": HttpServer(modern.url), "legacy": HttpServer(legacy.url)}) as pool,
    ):
        for name, version in (("modern", MODERN), ("legacy", LEGACY)):
            await pool.server(name).restart()
            assert words(await pool.call_tool(f"{name}__echo", {"text": name})) == name
            assert pool.server(name).info.protocol_version == version


async def test_a_server_whose_borrowed_client_was_closed_fails_and_says_why() -> None:
    lent = httpx2.AsyncClient(verify=False)
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, http_client=lent, restart=SOON))
        await lent.aclose()
        with anyio.fail_after(BOUND), pytest.raises(ConnectError, match="http_client must be open") as caught:
            await pool.server("s").restart()
        assert not caught.value.retryable
        assert isinstance(pool.server("s").state, Failed)
