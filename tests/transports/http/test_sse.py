"""Servers over HTTP with SSE: calls, lost connections and reconnects, and failed attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp import MCPError

from helpers.calls import Outcome, words
from helpers.common import eventually
from helpers.http import arrival, arrived, fault, ran, raw_server, refused_port
from mcp_pool import (
    CallTimeout,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    ConnectTimeout,
    HealthCheck,
    HttpStatusError,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    SseServer,
)
from mcp_pool.transports.http import client as http_client
from mcp_pool.transports.http import sse
from servers.in_process import calculator
from servers.tcp_proxy import TcpProxy, tcp_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.http import ServerProcess

SOON = RestartPolicy(initial_delay=0.01, max_delay=0.05)
BOUND = 15.0
"""Seconds for what must not wait for a timeout, on a slow machine too."""


def server_of(server: ServerProcess, **fields: Any) -> SseServer:
    """The spec of a server that is reconnected at once."""
    return SseServer(server.sse_url, **{"restart": SOON, **fields})


def through(proxy: TcpProxy) -> SseServer:
    """The same server behind a proxy."""
    return SseServer(f"http://127.0.0.1:{proxy.port}/sse", restart=SOON)


async def failure(config: SseServer, **settings: Any) -> ConnectError:
    """The error of a failed connection attempt, without waiting for a timeout."""
    async with MCPPool(**settings) as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectError) as caught:
            await pool.connect("s", config)
        assert pool.get_status("s") is ConnectionStatus.ERROR
    return caught.value


async def test_tools_are_listed_and_called_with_progress() -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        assert {"s__echo", "s__progress"} <= pool.tools.keys()
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        seen: list[tuple[float, float | None, str | None]] = []
        await pool.call_tool("s__progress", {"steps": 3}, progress=lambda *report: seen.append(report))
        assert seen == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_sse_uses_the_legacy_protocol_whatever_the_mode(mode: str, tmp_path: Path) -> None:
    async with raw_server("--modern", ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        await pool.connect("s", server_of(server, mode=mode))
        assert pool.snapshot().servers["s"].protocol_version == "2025-11-25"
        assert not arrived(tmp_path / "ledger", "server/discover")


async def test_calls_run_at_once_and_are_answered_in_any_order(tmp_path: Path) -> None:
    keys = [str(number) for number in range(30)]
    async with raw_server(ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        outcomes = {key: Outcome() for key in keys}
        async with anyio.create_task_group() as group:
            for key, outcome in outcomes.items():
                group.start_soon(outcome.of, pool.call_tool, "s__hold", {"key": key})
            await arrival(tmp_path / "ledger", tool="hold", count=len(keys))
            for key in reversed(keys):
                await pool.call_tool("s__release", {"key": key})
        assert [words(outcome.value) for outcome in outcomes.values()] == keys


async def test_a_call_that_is_cancelled_or_times_out_leaves_the_connection_in_use(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        async with anyio.create_task_group() as group:
            group.start_soon(pool.call_tool, "s__silent")
            await arrival(ledger, tool="silent")
            group.cancel_scope.cancel()
        await arrival(ledger, "notifications/cancelled")
        with pytest.raises(CallTimeout) as caught:
            await pool.call_tool("s__silent", timeout=0.5)
        assert caught.value.may_have_run
        await arrival(ledger, "notifications/cancelled", count=2)
        assert words(await pool.call_tool("s__echo", {"text": "still here"})) == "still here"
        assert pool.server("s").generation == 1
    assert ran(ledger, "silent") == 2


async def test_a_slow_post_delays_no_other_and_its_cancel_notification_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "CANCEL_WAIT", 60)
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, tcp_proxy(server.port) as proxy, MCPPool() as pool:
        await pool.connect("s", through(proxy))
        proxy.when(b'"hold"', "stall")
        proxy.when(b'"silent"', "stall")
        held = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__silent", timeout=0.5)
            for number in range(3):
                assert words(await pool.call_tool("s__echo", {"text": str(number)})) == str(number)
            assert not arrived(ledger, "notifications/cancelled")
            assert not arrived(ledger, tool="hold")
            for connection in proxy.open:
                connection.resume()
            await arrival(ledger, "notifications/cancelled")
            await arrival(ledger, tool="hold")
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"
        methods = [line["tool"] or line["method"] for line in arrived(ledger, "POST")]
        assert methods.index("silent") < methods.index("notifications/cancelled")


@pytest.mark.parametrize("manner", ["end", "cut", "reset"])
async def test_the_end_of_the_event_stream_loses_the_calls_in_flight_and_the_server_reconnects(
    manner: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        outcomes = [Outcome(), Outcome()]
        async with anyio.create_task_group() as group:
            for outcome in outcomes:
                group.start_soon(outcome.of, pool.call_tool, "s__silent")
            await arrival(ledger, tool="silent", count=2)
            await server.order(streams=manner)
        for outcome in outcomes:
            assert isinstance(outcome.error, ConnectionLost)
            assert outcome.error.may_have_run
            assert "ended its event stream" in str(outcome.error)
            cause = {"end": type(None), "cut": httpx2.RemoteProtocolError, "reset": httpx2.ReadError}[manner]
            assert isinstance(outcome.error.cause, cause)
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
        assert pool.server("s").generation == 2
    assert ran(ledger, "silent") == 2


@pytest.mark.parametrize(
    ("do", "value", "cause"),
    [
        ("reset", None, httpx2.ReadError),
        ("close", None, httpx2.RemoteProtocolError),
        ("not_http", None, httpx2.RemoteProtocolError),
    ],
)
async def test_a_post_without_a_response_loses_the_connection_and_the_server_reconnects(
    do: str, value: Any, cause: type[Exception], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        await server.misbehave(fault(do, value, on="tools/call:echo", times=1))
        other, failed = Outcome(), Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(other.of, pool.call_tool, "s__silent")
            await arrival(ledger, tool="silent")
            group.start_soon(failed.of, pool.call_tool, "s__echo", {"text": "hello"})
        for outcome in (other, failed):
            assert isinstance(outcome.error, ConnectionLost)
            assert outcome.error.may_have_run
            assert isinstance(outcome.error.cause, cause)
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
        assert pool.server("s").generation == 2
    assert ran(ledger, "silent") == 1
    assert ran(ledger, "echo") == 1


@pytest.mark.parametrize(
    ("do", "value", "status", "message"),
    [
        *(("status", status, status, f"answered with HTTP status {status}") for status in (400, 401, 405, 429, 500)),
        ("redirect", None, 307, "redirects to http://elsewhere.invalid, which is not followed"),
    ],
)
async def test_a_rejected_post_fails_its_own_call_and_disturbs_no_other(
    do: str, value: Any, status: int, message: str, tmp_path: Path
) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        await server.misbehave(fault(do, value, on="tools/call:echo", times=3))
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, tool="hold")
            for _ in range(2):
                with anyio.fail_after(BOUND), pytest.raises(HttpStatusError, match=message) as caught:
                    await pool.call_tool("s__echo")
                assert (caught.value.status, caught.value.may_have_run) == (status, True)
            with anyio.fail_after(BOUND), pytest.raises(MCPError):  # bypasses the pool, which would replace the error
                await pool.server("s").client.call_tool("echo")
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"
        assert pool.server("s").generation == 1


async def test_a_server_over_sse_that_answers_every_ping_with_503_is_lost(tmp_path: Path) -> None:
    check = HealthCheck(interval=0.1, timeout=1.0, failure_threshold=2)
    async with raw_server(faults=[fault("status", 503, on="ping")]) as server, MCPPool(health=check) as pool:
        await pool.connect("s", server_of(server, restart=RestartPolicy.never()))
        await eventually(lambda: pool.get_status("s") is ConnectionStatus.ERROR)
        assert "health checks in a row" in str(pool.server("s").last_error)


@pytest.mark.parametrize(("status", "is_lost"), [(404, True), (400, False), (500, False)])
async def test_a_rejected_notification_is_ignored_unless_the_session_is_unknown(
    status: int, is_lost: bool, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        await server.misbehave(fault("status", status, on="notifications/cancelled"))
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__silent", timeout=0.3)
        await arrival(ledger, "notifications/cancelled")
        if is_lost:
            await eventually(lambda: pool.server("s").generation == 2)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == (2 if is_lost else 1)


async def test_the_response_to_a_post_is_ignored_once_its_answer_has_come_on_the_stream(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        await server.misbehave(fault("late_status", 404, on="tools/call:echo"))
        for _ in range(2):
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


async def test_a_call_whose_session_the_server_does_not_know_is_sent_on_the_next_connection(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        await server.order(forget=True)
        assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        assert pool.server("s").generation == 2
    assert ran(ledger, "echo") == 1


async def test_a_call_for_which_no_connection_could_be_made_waits_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "MAX_IDLE_CONNECTIONS", 0)
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, tcp_proxy(server.port) as proxy, MCPPool() as pool:
        await pool.connect("s", through(proxy))
        other, call = Outcome(), Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(other.of, pool.call_tool, "s__silent")
            await arrival(ledger, tool="silent")
            proxy.refuse()
            group.start_soon(call.of, pool.call_tool, "s__echo", {"text": "patient"})
            await other.ended.wait()
            assert isinstance(other.error, ConnectionLost)
            assert other.error.may_have_run
            assert isinstance(other.error.cause, httpx2.ConnectError)
            proxy.accept()
        assert words(call.value) == "patient"
    assert ran(ledger, "echo") == 1


async def test_posts_and_the_stream_are_redirected_within_the_origin() -> None:
    async with raw_server(faults=[fault("redirect", "/a/sse", on="GET", times=1)]) as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        (session,) = (await server.order())["sessions"]
        place = f"/a/messages?session_id={session}"
        await server.misbehave(fault("redirect", place, on="tools/call:echo", times=2))
        assert words(await pool.call_tool("s__echo", {"text": "there"})) == "there"
        assert pool.server("s").generation == 1
        await server.misbehave(fault("redirect", place, on="tools/call:echo", times=10))
        with pytest.raises(HttpStatusError, match="307|redirects") as caught:
            await pool.call_tool("s__echo", {"text": "in circles"})
        assert (caught.value.status, pool.server("s").generation) == (307, 1)


async def test_a_server_that_no_longer_accepts_messages_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_POSTS", 2)
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", server_of(server, restart=RestartPolicy.never()))
        await server.misbehave(fault("silent", on="POST"))
        outcomes = [Outcome() for _ in range(3)]
        async with anyio.create_task_group() as group:
            for outcome in outcomes:
                group.start_soon(outcome.of, pool.call_tool, "s__silent")
        lost = [outcome.error for outcome in outcomes if isinstance(outcome.error, ConnectionLost)]
        (unsent,) = (outcome.error for outcome in outcomes if isinstance(outcome.error, ServerUnavailable))
        assert [error.may_have_run for error in lost] == [True, True]
        for error in (*lost, unsent):
            assert "has not accepted the last 2 messages" in str(error)


@pytest.mark.parametrize("limit", [pytest.param(20_000, id="its own"), pytest.param(2**20, id="that of the SDK")])
async def test_an_event_that_is_too_long_ends_its_connection_only(limit: int) -> None:
    fields = {"max_message_size": limit} if limit < 2**20 else {}
    async with raw_server() as server, MCPPool({"other": InProcessServer(calculator())}) as pool:
        await pool.connect("s", server_of(server, **fields))
        await pool.call_tool("s__big", {"n": limit - 1000})
        with pytest.raises(ConnectionLost, match="sent an event longer than") as caught:
            await pool.call_tool("s__big", {"n": limit})
        assert str(limit) in str(caught.value)
        assert ("max_message_size" in caught.value.advice) == bool(fields)
        assert caught.value.may_have_run
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
        assert pool.server("other").generation == 1


async def test_an_endless_event_ends_the_connection() -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", server_of(server))
        await server.misbehave(fault("endless_event", on="tools/call:echo", times=1))
        with pytest.raises(ConnectionLost, match="1048576"):
            await pool.call_tool("s__echo", {"text": "hello"})
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_server_that_rejects_the_credentials_over_sse_fails_and_says_why(status: int) -> None:
    async with raw_server() as server:
        for on in ("GET", "initialize", "notifications/initialized", "tools/list"):
            await server.misbehave(fault("status", status, on=on))
            error = await failure(server_of(server))
            assert not error.retryable
            assert f"HTTP status {status}" in str(error)
            assert "Correct headers or auth" in error.advice
            assert isinstance(error.cause, HttpStatusError)
            assert error.cause.status == status


@pytest.mark.parametrize(
    ("do", "value", "message"),
    [
        ("status", 404, "404"),
        ("status", 503, "503"),
        ("reset", None, "ReadError"),
        ("close", None, "RemoteProtocolError"),
        ("redirect", None, "http://elsewhere.invalid, which|status 307"),
        ("redirect", "/in-circles/sse", "which is not followed|status 307"),
        ("half_stream", "end", "ended its event stream"),
        ("half_stream", "cut", "ended its event stream"),
    ],
)
async def test_an_attempt_that_fails_says_why_at_once(do: str, value: Any, message: str) -> None:
    async with raw_server() as server:
        for on in ("GET", "initialize", "tools/list"):
            await server.misbehave(fault(do, value, on=on))
            error = await failure(server_of(server), connect_timeout=None)
            assert error.retryable
            assert any(part in str(error) for part in message.split("|")), str(error)
            assert "/sse" not in f"{error} {error.cause}"
            assert "/mcp" not in f"{error} {error.cause}"


async def test_a_response_that_is_not_an_event_stream_is_a_connect_error() -> None:
    async with raw_server(faults=[fault("status", 200, on="GET")]) as server:
        error = await failure(server_of(server), connect_timeout=None)
    assert "answered with text/html instead of an event stream" in str(error)


async def test_a_refused_connection_is_a_connect_error() -> None:
    with refused_port() as port:
        error = await failure(SseServer(f"http://127.0.0.1:{port}/sse"))
    assert f"could not be reached at http://127.0.0.1:{port}" in str(error)
    assert isinstance(error.cause, httpx2.ConnectError)
    assert error.retryable


@pytest.mark.parametrize("on", ["GET", "initialize"])
async def test_a_silent_server_is_a_connect_timeout(on: str) -> None:
    async with raw_server(faults=[fault("silent", on=on)]) as server:
        assert isinstance(await failure(server_of(server, connect_timeout=0.3)), ConnectTimeout)


async def test_closing_is_quick_although_the_server_hangs(tmp_path: Path) -> None:
    async with raw_server(ledger=tmp_path / "ledger") as server:
        async with MCPPool() as pool, anyio.create_task_group() as group:
            await pool.connect("s", server_of(server, close_timeout=60))
            calls = [Outcome(), Outcome()]
            group.start_soon(calls[0].of, pool.call_tool, "s__silent")
            await arrival(tmp_path / "ledger", tool="silent")
            server.pause()
            group.start_soon(calls[1].of, pool.call_tool, "s__echo", {"text": "nobody reads this"})
            await eventually(lambda: pool.snapshot().servers["s"].calls_in_flight == 2)
            with anyio.fail_after(BOUND):
                await pool.close_all()
        assert all(isinstance(call.error, ConnectionLost) for call in calls)
