"""Rejected calls, and answers with an error status: what is delivered, what is sent again, and what is a lost session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError

from helpers.calls import Outcome, words
from helpers.http import arrival, arrived, fault, ran, raw_server
from helpers.http_calls import BOUND, behind_url, connected, hides_its_secrets, in_flight
from mcp_pool import (
    ConnectionLost,
    HealthCheck,
    HttpServer,
    HttpStatusError,
    MCPPool,
    RestartPolicy,
    SseServer,
)
from mcp_pool.transports.http import session_probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from helpers.http import ServerProcess

SOON = RestartPolicy(initial_delay=0.01, multiplier=1.0)
LEGACY: dict[str, Any] = {"mode": "legacy", "restart": SOON, "health": None}
"""Without health checks, so that each ping is a session probe."""


def spec(server: ServerProcess, wire: str, **fields: Any) -> HttpServer | SseServer:
    """The spec of a server behind a URL, without health checks unless `fields` enable them."""
    given = {"restart": SOON, "health": None, **fields}
    return SseServer(server.sse_url, **given) if wire == "sse" else HttpServer(server.url, mode="legacy", **given)


@pytest.mark.parametrize(
    ("do", "status", "error"),
    [
        *(("status", status, HttpStatusError) for status in (400, 401, 403, 405, 413)),
        *(("error", status, MCPError) for status in (200, 400, 401, 403, 404, 429, 500, 503)),
    ],
)
async def test_a_rejected_call_fails_alone_if_a_ping_is_answered(
    do: str, status: int, error: type[Exception], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger, faults=[fault(do, status, on="tools/call:big")]) as server,
        MCPPool({"s": behind_url(server, **LEGACY)}) as pool,
        in_flight(pool, ledger),
    ):
        for number in range(3):
            with anyio.fail_after(BOUND), pytest.raises(error) as caught:
                await pool.call_tool("s__big", {"n": 1})
            assert getattr(caught.value, "status", status) == status
            assert getattr(caught.value, "may_have_run", True)
            assert hides_its_secrets(caught.value)
            assert words(await pool.call_tool("s__echo", {"text": str(number)})) == str(number)
        assert pool.server("s").generation == 1
        assert (len(arrived(ledger, tool="big")), len(arrived(ledger, "initialize"))) == (3, 1)


@pytest.mark.parametrize("wire", ["http", "sse"])
@pytest.mark.parametrize("status", [400, 404, 429, 500])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_an_answer_with_the_id_of_its_request_is_delivered_whatever_the_status(
    wire: str, status: int, kind: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    body = '{"jsonrpc": "2.0", "id": @ID, "error": {"code": -32603, "message": "booked, but not printed"}}'
    async with raw_server(ledger=ledger) as server, MCPPool({"s": spec(server, wire)}) as pool:
        await server.misbehave(
            fault("status_of", [status, kind], on="tools/call:echo"),
            fault("says", [status, kind, body], on="tools/call:pid"),
        )
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        for _ in range(3):
            with anyio.fail_after(BOUND), pytest.raises(MCPError, match="booked, but not printed") as caught:
                await pool.call_tool("s__pid")
            assert caught.value.code == -32603
        assert pool.server("s").generation == 1
        assert (ran(ledger, "echo"), len(arrived(ledger, tool="pid"))) == (1, 3)


@pytest.mark.parametrize("wire", ["http", "sse"])
@pytest.mark.parametrize("status", [400, 404, 503])
async def test_a_server_that_answers_a_ping_with_method_not_found_and_an_error_status_is_healthy(
    wire: str, status: int, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("error", [status, -32601, "Method not found: ping"], on="ping")]
    check = HealthCheck(interval=0.05, timeout=20, failure_threshold=1)
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": spec(server, wire, health=check)}) as pool,
    ):
        await arrival(ledger, "ping", count=5)
        for _ in range(2):  # two equal errors trigger a session probe
            await server.order(add=[fault("error", [400, -32602, "text is missing"], on="tools/call:echo", times=1)])
            with pytest.raises(MCPError, match="text is missing"):
                await pool.call_tool("s__echo")
        await arrival(ledger, "ping", count=7)
        assert (pool.server("s").generation, pool.server("s").last_error) == (1, None)
        assert len(arrived(ledger, "initialize")) == 1


@pytest.mark.parametrize("wire", ["http", "sse"])
@pytest.mark.parametrize(
    "says",
    [
        [404, "text/html", "<html>"],
        [
            404,
            "application/json",
            '{"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": "Session not found"}}',
        ],
        [
            404,
            "application/json",
            '{"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "?"}}',
        ],
    ],
    ids=["page", "null", "other id"],
)
async def test_404_without_an_answer_means_a_lost_session_and_the_call_runs_once_on_the_next(
    wire: str, says: list[Any], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("says", says, on="tools/call:echo", times=1), fault("reset", on="ping")]
    async with raw_server(ledger=ledger) as server, MCPPool({"s": spec(server, wire)}) as pool:
        await server.misbehave(*rules)
        with anyio.fail_after(BOUND):
            assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        assert (pool.server("s").generation, len(arrived(ledger, tool="echo"))) == (2, 2)
        assert arrived(ledger, "ping") == []


@pytest.mark.parametrize("wire", ["http", "sse"])
@pytest.mark.parametrize(
    "says",
    [[404, "application/json", '{"jsonrpc": "2.0"', 100], [404, "application/json", '{"id": @ID, "error": "broken"}']],
    ids=["cut", "broken"],
)
async def test_a_call_whose_404_response_may_have_contained_its_answer_is_not_retried(
    wire: str, says: list[Any], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": spec(server, wire)}) as pool:
        await server.misbehave(fault("says", says, on="tools/call:echo", times=1))
        with anyio.fail_after(BOUND), pytest.raises(HttpStatusError) as caught:
            await pool.call_tool("s__echo")
        assert (caught.value.status, caught.value.may_have_run) == (404, True)
        await arrival(ledger, "ping")
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert (pool.server("s").generation, len(arrived(ledger, tool="echo"))) == (1, 2)


REFUSALS: list[tuple[str, Any, type[Exception]]] = [
    ("status", 400, HttpStatusError),
    ("status", 403, HttpStatusError),
    ("error", [400, -32600, "Bad Request: Missing session ID", None], MCPError),
    ("error", [400, -32000, "Bad Request: Server not initialized", "server-error"], MCPError),
    (
        "says",
        [400, "application/json", '{"jsonrpc": "2.0", "error": {"code": -32000, "message": "No session"}}'],
        MCPError,
    ),
]


@pytest.mark.parametrize("wire", ["http", "sse"])
@pytest.mark.parametrize(("do", "value", "error"), REFUSALS)
async def test_4xx_without_an_answer_triggers_a_ping_and_one_new_handshake_if_that_is_rejected_identically(
    wire: str, do: str, value: Any, error: type[Exception], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": spec(server, wire)}) as pool,
        in_flight(pool, ledger),
    ):
        await server.misbehave(fault(do, value, on="tools/call:echo", times=2), fault(do, value, on="ping"))
        with anyio.fail_after(BOUND), pytest.raises(error):
            await pool.call_tool("s__echo")
        await connected(pool, 2)
        assert "appears to have lost the session" in str(pool.server("s").last_error)
        with anyio.fail_after(BOUND), pytest.raises(error):
            await pool.call_tool("s__echo")
        await arrival(ledger, "ping", count=2)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert (ran(ledger, "echo"), len(arrived(ledger, "initialize"))) == (1, 2)
        assert pool.server("s").generation == 2  # at most once in `stable_after`


async def test_a_caller_that_retries_at_once_after_a_rejection_gets_the_new_session(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server("--unknown-session", 400, ledger=ledger) as server,
        MCPPool({"s": spec(server, "http")}) as pool,
    ):
        (session,) = (await server.order())["sessions"]
        await server.order(forget=True)
        with pytest.raises(MCPError, match="No valid session ID provided"):
            await pool.call_tool("s__echo")
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert (pool.server("s").generation, len(arrived(ledger, "ping")), ran(ledger, "echo")) == (2, 1, 1)
        await arrival(ledger, "DELETE")  # the loss was inferred, not reported by the server
        assert [line["session"] for line in arrived(ledger, "DELETE")] == [session]


@pytest.mark.parametrize("stable_after", [0, 60])
async def test_a_session_is_replaced_on_suspicion_at_most_once_per_stable_after(
    stable_after: float, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    policy = RestartPolicy(initial_delay=0.01, multiplier=1.0, stable_after=stable_after)
    rules = [fault("status", 400, on="tools/call:big"), fault("status", 400, on="ping")]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": spec(server, "http", restart=policy)}) as pool,
    ):
        for number in (1, 2, 3):
            with pytest.raises(HttpStatusError):
                await pool.call_tool("s__big", {"n": 1})
            await arrival(ledger, "ping", count=number)
            if stable_after == 0:
                await connected(pool, number + 1)
        await connected(pool, 2 if stable_after else 4)
        assert len(arrived(ledger, tool="big")) == 3


async def test_the_same_error_for_two_consecutive_calls_and_a_ping_causes_one_new_handshake(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server("--unknown-session", 400, "--names-request", ledger=ledger) as server,
        MCPPool({"s": spec(server, "http")}) as pool,
    ):
        await server.order(forget=True)
        for number in (1, 2):
            assert len(arrived(ledger, "ping")) == 0, number
            with pytest.raises(MCPError, match="No valid session ID provided"):
                await pool.call_tool("s__echo")
        await connected(pool, 2)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert (len(arrived(ledger, "ping")), len(arrived(ledger, "initialize")), ran(ledger, "echo")) == (1, 2, 1)


@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["json", "stream"])
async def test_the_same_error_for_two_consecutive_calls_triggers_one_ping_whatever_the_status_and_the_wire(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(*options, ledger=ledger) as server,
        MCPPool({"s": spec(server, "http")}) as pool,
    ):
        for number in (1, 2):
            with pytest.raises(MCPError):
                await pool.call_tool("s__error")
            assert (len(arrived(ledger, "ping")) == 0) or number == 2
        await arrival(ledger, "ping")
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize(
    ("do", "value"),
    [
        ("reset", None),
        ("status", 503),
        ("status", 401),
        ("status", 429),
        ("accepted", None),
        ("not_rpc", None),
        ("half_body", "cut"),
        ("big_body", 200_000),
        ("error", [400, -32601, "Method not found", None]),
        ("status_of", [400]),
        ("says", [404, "application/json", '{"id": @ID, "error": "broken"}']),
    ],
)
async def test_a_rejection_that_differs_from_that_of_the_ping_leaves_the_session_alone(
    do: str, value: Any, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("status", 400, on="tools/call:echo", times=1), fault(do, value, on="ping", times=1)]
    async with raw_server(ledger=ledger, faults=rules) as server, MCPPool({"s": spec(server, "http")}) as pool:
        with pytest.raises(HttpStatusError):
            await pool.call_tool("s__echo")
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert (pool.server("s").generation, len(arrived(ledger, "ping")), ran(ledger, "echo")) == (1, 1, 1)


@pytest.mark.parametrize("wire", ["http", "sse"])
@pytest.mark.parametrize("says", [("status", 404), ("error", [404, -32001, "Session not found", None])])
async def test_a_ping_rejected_with_404_means_that_the_session_is_lost(
    wire: str, says: tuple[str, Any], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("status", 400, on="tools/call:echo", times=1), fault(*says, on="ping", times=1)]
    async with raw_server(ledger=ledger, faults=rules) as server, MCPPool({"s": spec(server, wire)}) as pool:
        with pytest.raises(HttpStatusError) as caught:
            await pool.call_tool("s__echo")
        assert caught.value.may_have_run
        await connected(pool, 2)
        assert len(arrived(ledger, tool="echo")) == 1


async def test_the_health_check_detects_that_an_idle_session_was_lost(tmp_path: Path) -> None:
    for status in (404, 400):
        ledger = tmp_path / f"ledger {status}"
        async with (
            raw_server("--unknown-session", status, ledger=ledger) as server,
            MCPPool({"s": spec(server, "http", health=HealthCheck(interval=0.05, timeout=20))}) as pool,
        ):
            await server.order(forget=True)
            await connected(pool, 2)
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"


async def test_concurrent_rejections_share_pings(tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(20)]
    rules = [fault("status", 400, on="tools/call:big"), fault("slow", 0.5, on="ping")]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.of, pool.call_tool, "s__big", {"n": 1})
        assert all(isinstance(call.error, HttpStatusError) for call in calls)
        assert len(arrived(ledger, tool="big")) == len(calls)
        assert 0 < len(arrived(ledger, "ping")) < len(calls) / 2
        assert pool.server("s").generation == 1


async def test_a_session_that_is_lost_while_a_ping_is_in_flight_is_detected(tmp_path: Path) -> None:
    ledger, refused, forgotten = tmp_path / "ledger", Outcome(), Outcome()
    rules = [fault("status", 403, on="tools/call:big"), fault("slow", 0.5, on="ping", times=1)]
    async with (
        raw_server("--unknown-session", 400, ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(refused.of, pool.call_tool, "s__big", {"n": 1})
            await arrival(ledger, "ping")
            await server.order(forget=True)
            group.start_soon(forgotten.of, pool.call_tool, "s__echo", {"text": "on"})
        assert isinstance(refused.error, HttpStatusError)
        assert isinstance(forgotten.error, MCPError)
        await connected(pool, 2)
        assert len(arrived(ledger, "ping")) == 2
        assert ran(ledger, "echo") == 0


async def test_an_unanswered_ping_does_not_delay_the_rejected_call_or_others_for_long(
    tmp_path: Path,
) -> None:
    ledger, first = tmp_path / "ledger", Outcome()
    rules = [fault("status", 400, on="tools/call:big"), fault("silent", on="ping")]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        with anyio.fail_after(session_probe.PROBE_TIMEOUT - 1):
            async with anyio.create_task_group() as group:
                group.start_soon(first.of, pool.call_tool, "s__big", {"n": 1})
                await arrival(ledger, "ping")
                assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert isinstance(first.error, HttpStatusError)
        assert (pool.server("s").generation, len(arrived(ledger, "ping"))) == (1, 1)


@pytest.mark.parametrize("wire", ["http", "sse"])
async def test_a_call_rejected_on_the_next_connection_too_is_not_sent_again(wire: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("status", 404, on="tools/call:big"), fault("status", 404, on="ping")]
    words_of_it = "no longer knows the session" if wire == "http" else "rejected a message with HTTP status 404"
    async with raw_server(ledger=ledger, faults=rules) as server:
        async with MCPPool({"s": spec(server, wire)}, wait_timeout=None) as pool:
            for number in (1, 2):
                with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match=words_of_it) as caught:
                    await pool.call_tool("s__big", {"n": 1})
                assert not caught.value.may_have_run
                assert isinstance(caught.value.cause, HttpStatusError)
                assert caught.value.cause.status == 404
                assert caught.value.generation == 2 * number
                assert len(arrived(ledger, tool="big")) == 2 * number
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
            assert len(arrived(ledger, "initialize")) == 5
        assert ran(ledger, "big") == 0


@pytest.mark.parametrize("options", [(), ("--no-get",)])
async def test_a_call_whose_session_is_lost_repeatedly_is_sent_once_on_each_of_two_connections(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger, call = tmp_path / "ledger", Outcome()
    rules = [fault("session_lost", on="tools/call:big")]
    async with (
        raw_server(*options, ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}, wait_timeout=None) as pool,
    ):
        with anyio.fail_after(BOUND):
            await call.of(pool.call_tool, "s__big", {"n": 1})
        assert isinstance(call.error, ConnectionLost)
        assert not call.error.may_have_run
        assert len(arrived(ledger, tool="big")) == 2
