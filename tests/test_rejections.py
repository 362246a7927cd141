"""Calls that a server refuses as if it did not know their session: they harm nobody else, and are never sent for ever."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError

from mcp_pool import CallTimeout, ConnectionLost, HttpServer, HttpStatus, MCPPool, RestartPolicy, SseServer
from support_calls import Outcome, words
from support_http import arrival, arrived, fault, ran, raw_server
from support_http_calls import BOUND, behind_url, hides_its_secrets, in_flight

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SOON = RestartPolicy(initial_delay=0.01, multiplier=1.0)
LEGACY: dict[str, Any] = {"mode": "legacy", "restart": SOON, "health": None}
"""Without questions of the health check, so that each ping is one for a session."""


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize(
    ("do", "error"), [("status", HttpStatus), ("error", MCPError)], ids=["by a gateway", "by the server"]
)
async def test_a_tool_that_is_answered_400_or_404_fails_its_own_call_and_disturbs_no_other(
    do: str, error: type[Exception], status: int, tmp_path: Path
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
            assert hides_its_secrets(caught.value)
            assert words(await pool.call_tool("s__echo", {"text": str(number)})) == str(number)
        assert pool.server("s").generation == 1
        assert (len(arrived(ledger, tool="big")), len(arrived(ledger, "initialize"))) == (3, 1)


async def test_calls_that_are_refused_together_are_settled_by_fewer_pings_than_there_are_calls(tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(20)]
    rules = [fault("status", 404, on="tools/call:big"), fault("slow", 0.5, on="ping")]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.of, pool.call_tool, "s__big", {"n": 1})
        assert all(isinstance(call.error, HttpStatus) for call in calls)
        assert len(arrived(ledger, tool="big")) == len(calls)
        assert 0 < len(arrived(ledger, "ping")) < len(calls) / 2
        assert pool.server("s").generation == 1


async def test_a_session_that_is_forgotten_while_a_ping_is_under_way_is_known_to_be_lost(tmp_path: Path) -> None:
    ledger, refused, forgotten = tmp_path / "ledger", Outcome(), Outcome()
    rules = [fault("status", 404, on="tools/call:big"), fault("slow", 0.5, on="ping", times=1)]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(refused.of, pool.call_tool, "s__big", {"n": 1})
            await arrival(ledger, "ping")
            await server.order(forget=True)
            group.start_soon(forgotten.of, pool.call_tool, "s__echo", {"text": "on"})
        assert isinstance(refused.error, HttpStatus)
        assert words(forgotten.value) == "on"
        assert pool.server("s").generation == 2
        assert len(arrived(ledger, "ping")) == 2
        assert ran(ledger, "echo") == 1


async def test_a_call_that_is_given_up_while_others_wait_for_its_ping_leaves_them_the_next_one(tmp_path: Path) -> None:
    ledger, first, second = tmp_path / "ledger", Outcome(), Outcome()
    rules = [fault("status", 404, on="tools/call:big"), fault("silent", on="ping", times=1)]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        async with anyio.create_task_group() as group:
            group.start_soon(first.of, partial(pool.call_tool, timeout=3), "s__big", {"n": 1})
            await arrival(ledger, "ping")
            group.start_soon(second.of, pool.call_tool, "s__big", {"n": 1})
        assert isinstance(first.error, CallTimeout)
        assert isinstance(second.error, HttpStatus)
        assert len(arrived(ledger, "ping")) == 2
        assert pool.server("s").generation == 1


@pytest.mark.parametrize(
    ("do", "value"),
    [
        ("reset", None),
        ("status", 503),
        ("status", 401),
        ("accepted", None),
        ("not_rpc", None),
        ("half_body", "cut"),
        ("big_body", 200_000),
    ],
)
async def test_a_404_that_a_ping_does_not_explain_means_a_lost_session(do: str, value: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("status", 404, on="tools/call:echo", times=1), fault(do, value, on="ping", times=1)]
    async with (
        raw_server(ledger=ledger, faults=rules) as server,
        MCPPool({"s": HttpServer(server.url, **LEGACY)}) as pool,
    ):
        assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        assert pool.server("s").generation == 2
        assert ran(ledger, "echo") == 1


@pytest.mark.parametrize("wire", ["http", "sse"])
async def test_a_call_that_is_refused_on_the_next_connection_too_is_not_sent_again(wire: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    rules = [fault("status", 404, on="tools/call:big"), fault("status", 404, on="ping")]
    words_of_it = "no longer knows the session" if wire == "http" else "refused a message with HTTP status 404"
    async with raw_server(ledger=ledger, faults=rules) as server:
        spec = (
            HttpServer(server.url, **LEGACY) if wire == "http" else SseServer(server.sse_url, restart=SOON, health=None)
        )
        async with MCPPool({"s": spec}, wait_timeout=None) as pool:
            for number in (1, 2):
                with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match=words_of_it) as caught:
                    await pool.call_tool("s__big", {"n": 1})
                assert not caught.value.may_have_run
                assert isinstance(caught.value.cause, HttpStatus)
                assert caught.value.cause.status == 404
                assert caught.value.generation == 2 * number
                assert len(arrived(ledger, tool="big")) == 2 * number
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
            assert len(arrived(ledger, "initialize")) == 5
        assert ran(ledger, "big") == 0


@pytest.mark.parametrize("options", [(), ("--no-get",)])
async def test_a_call_whose_session_is_lost_again_and_again_is_sent_once_on_each_of_two_connections(
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
