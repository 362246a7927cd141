"""HTTP servers that stop, restart and lose sessions: losses are detected, and calls that did not run are run, once."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp import MCPError

from helpers.calls import PROTOCOLS, Outcome, words
from helpers.common import eventually
from helpers.http import arrival, arrived, fault, given_up, ran, raw_server
from helpers.http_calls import BOUND, behind_url, connected, hides_its_secrets, in_flight
from mcp_pool import (
    BackingOff,
    CallTimeout,
    Closing,
    Connecting,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    HealthCheck,
    HttpServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
)
from servers.tcp_proxy import tcp_proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SOON = RestartPolicy(initial_delay=0.01, multiplier=1.0)
NOT_NOW = RestartPolicy(initial_delay=1000, max_delay=1000)
MODERN = ("--modern",)


async def backing_off(pool: MCPPool) -> None:
    """Wait until the server `s` is backing off."""
    await eventually(lambda: isinstance(pool.server("s").state, BackingOff))


async def test_a_restarted_modern_server_answers_the_next_call(tmp_path: Path) -> None:
    async with raw_server(*MODERN) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        await server.restart()
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_call_whose_connection_is_refused_waits_until_the_server_is_back(
    protocol: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(5)]
    async with raw_server(*protocol, ledger=ledger) as server, MCPPool({"s": behind_url(server, restart=SOON)}) as pool:
        await server.kill()
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.of, pool.call_tool, "s__echo", {"text": "patient"})
            await backing_off(pool)
            assert "could not be reached" in str(pool.server("s").last_error)
            assert hides_its_secrets(pool.server("s").last_error)
            await server.start()
        assert [words(call.value) for call in calls] == ["patient"] * len(calls)
        await connected(pool, 2)
    assert ran(ledger, "echo") == len(calls)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_calls_in_flight_go_on_while_new_connections_are_refused(
    protocol: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, late, silent = tmp_path / "ledger", Outcome(), Outcome()
    async with raw_server(*protocol, "--no-get", ledger=ledger) as server, tcp_proxy(server.port) as proxy:
        spec = HttpServer(f"http://127.0.0.1:{proxy.port}/mcp", restart=SOON)
        async with MCPPool({"s": spec}) as pool, anyio.create_task_group() as group:
            group.start_soon(lambda: silent.of(lambda: pool.call_tool("s__silent", timeout=3)))
            await arrival(ledger, tool="silent")
            async with in_flight(pool, ledger):
                proxy.refuse()
                group.start_soon(late.of, pool.call_tool, "s__echo", {"text": "late"})
                await backing_off(pool)
                await silent.ended.wait()
                assert isinstance(silent.error, CallTimeout)
                proxy.accept()
                await late.ended.wait()
                assert words(late.value) == "late"
            assert pool.server("s").generation == 2
    assert (ran(ledger, "hold"), ran(ledger, "echo")) == (5, 1)


@pytest.mark.parametrize("options", [(*MODERN, "--stream"), MODERN, ("--stream",), ()])
async def test_a_server_killed_during_calls_is_soon_detected(options: tuple[str, ...], tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(5)]
    async with (
        raw_server(*options, "--no-get", ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=NOT_NOW)}) as pool,
    ):
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.of, pool.call_tool, "s__silent")
            await eventually(lambda: ran(ledger, "silent") == len(calls))  # a request that has arrived may not run yet
            await server.kill()
        for call in calls:
            assert isinstance(call.error, ConnectionLost)
            assert call.error.may_have_run
            assert isinstance(call.error.__cause__, httpx2.TransportError)
        await backing_off(pool)
        assert pool.get_status("s") is ConnectionStatus.ERROR
    assert ran(ledger, "silent") == len(calls)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("do", "value", "is_life"), [("reset", None, False), ("status", 503, False), ("status", 403, True)]
)
async def test_a_suspect_server_is_lost_unless_it_responds(
    protocol: tuple[str, ...], do: str, value: Any, is_life: bool, tmp_path: Path
) -> None:
    ledger, question = tmp_path / "ledger", "server/discover" if protocol else "ping"
    check = HealthCheck(timeout=1.0, failure_threshold=2)  # a probe that is not sent in time would never arrive
    async with (
        raw_server(*protocol, "--no-get", ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=NOT_NOW)}, health=check) as pool,
    ):
        if not protocol:
            await arrival(ledger, "GET")  # its response is activity
        before = len(arrived(ledger, question))
        await server.misbehave(fault(do, value, on=question), fault("reset", on="tools/call:echo", times=1))
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__echo")
        if is_life:
            await arrival(ledger, question, count=before + 1)
            assert words(await pool.call_tool("s__echo", {"text": "alive"})) == "alive"
            assert pool.server("s").generation == 1
        else:
            await backing_off(pool)
            await arrival(ledger, question, count=before + 2)
            assert len(arrived(ledger, question)) == before + 2


async def test_a_legacy_server_killed_while_idle_is_soon_detected(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=NOT_NOW)}) as pool,
    ):
        await arrival(ledger, "GET")
        await server.kill()
        await backing_off(pool)


@pytest.mark.parametrize("lost", ["forgotten", "restarted"])
async def test_a_lost_session_causes_one_handshake_and_ten_calls_all_run_once(lost: str, tmp_path: Path) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(10)]
    async with (
        raw_server("--no-get", ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON, health=None)}) as pool,
    ):
        await arrival(ledger, "GET")  # the server must be up
        await (server.order(forget=True) if lost == "forgotten" else server.restart())
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.of, pool.call_tool, "s__echo", {"text": "once"})
        assert [words(call.value) for call in calls] == ["once"] * len(calls)
        assert isinstance(pool.server("s").last_error, ConnectionLost)
        assert "no longer knows the session" in str(pool.server("s").last_error)
        assert (pool.server("s").generation, pool.snapshot().servers["s"].attempt) == (2, 2)
        assert (len(arrived(ledger, "initialize")), len(arrived(ledger, "ping"))) == (2, 0)
        assert ran(ledger, "echo") == len(calls)


async def test_a_session_lost_with_400_causes_one_handshake_and_ten_calls_fail_with_the_servers_error(
    tmp_path: Path,
) -> None:
    ledger, calls = tmp_path / "ledger", [Outcome() for _ in range(10)]
    async with (
        raw_server("--unknown-session", 400, ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON, health=None)}) as pool,
    ):
        await server.order(forget=True)
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(call.of, pool.call_tool, "s__echo")
        for call in calls:
            assert isinstance(call.error, MCPError)
            assert (call.error.code, "No valid session ID" in str(call.error)) == (-32000, True)
        await connected(pool, 2)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert len(arrived(ledger, "initialize")) == 2
        assert (len(arrived(ledger, tool="echo")), ran(ledger, "echo")) == (11, 1)


async def test_a_lost_session_lets_accepted_calls_finish(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url, restart=SOON)}) as pool:
        async with in_flight(pool, ledger):
            await server.misbehave(fault("session_lost", on="tools/call:echo", times=1))
            assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
            assert pool.server("s").generation == 2
        assert (ran(ledger, "hold"), ran(ledger, "echo")) == (5, 1)


@pytest.mark.parametrize("drained", ["disconnect", "close_all"])
async def test_calls_on_the_previous_connection_are_drained_too(drained: str, tmp_path: Path) -> None:
    ledger, held, ended = tmp_path / "ledger", Outcome(), Outcome()
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON)}) as pool,
        MCPPool({"s": HttpServer(server.url)}) as other,
        anyio.create_task_group() as group,
    ):
        group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, tool="hold")
        await server.misbehave(fault("session_lost", on="tools/call:echo", times=1))
        assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        assert (pool.server("s").generation, pool.snapshot().calls_in_flight) == (2, 1)
        drain = (
            partial(pool.disconnect, "s", drain=30) if drained == "disconnect" else partial(pool.close_all, drain=30)
        )
        group.start_soon(ended.of, drain)
        await eventually(lambda: pool.get_status("s") is not ConnectionStatus.CONNECTED)
        await anyio.wait_all_tasks_blocked()
        assert not ended.ended.is_set()
        await other.call_tool("s__release", {"key": "a"})
        with anyio.fail_after(BOUND):
            await ended.ended.wait()
        assert words(held.value) == "a"


async def test_a_connection_that_opens_during_a_drain_takes_no_calls(tmp_path: Path) -> None:
    ledger, held, rejected = tmp_path / "ledger", Outcome(), Outcome()
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON)}) as pool,
        MCPPool({"s": HttpServer(server.url)}) as other,
        anyio.create_task_group() as group,
    ):
        group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, tool="hold")
        lists = len(arrived(ledger, "tools/list"))
        await server.misbehave(
            fault("session_lost", on="tools/call:echo", times=1), fault("slow", 2, on="initialize", times=1)
        )
        group.start_soon(rejected.of, pool.call_tool, "s__echo")
        await eventually(lambda: isinstance(pool.server("s").state, Connecting))
        group.start_soon(lambda: pool.disconnect("s", drain=30))
        await eventually(lambda: len(arrived(ledger, "tools/list")) > lists)
        await anyio.wait_all_tasks_blocked()
        assert isinstance(pool.server("s").state, Closing)
        await other.call_tool("s__release", {"key": "a"})
    assert words(held.value) == "a"
    assert isinstance(rejected.error, ServerUnavailable)
    assert ran(ledger, "echo") == 0


async def test_with_a_wait_timeout_of_zero_a_call_on_a_lost_session_says_that_it_did_not_run(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": behind_url(server)}, wait_timeout=0) as pool:
        await arrival(ledger, "GET")
        await server.order(forget=True)
        with pytest.raises(ConnectionLost, match="no longer knows the session") as caught:
            await pool.call_tool("s__echo")
        assert not caught.value.may_have_run
        assert hides_its_secrets(caught.value)
        assert ran(ledger, "echo") == 0


@pytest.mark.parametrize("ping", ["answered", "reset"])
async def test_an_error_with_status_400_that_is_not_about_the_session_leaves_it_alone(
    ping: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        rules = [fault("error", [400, -32602, "no such thing"], on="tools/call:echo", times=1)]
        await server.misbehave(*rules, *([fault("reset", on="ping", times=1)] if ping == "reset" else []))
        async with in_flight(pool, ledger):
            with pytest.raises(MCPError, match="no such thing"):
                await pool.call_tool("s__echo")
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1
        assert len(arrived(ledger, "initialize")) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 409, 500, 501, 503])
async def test_a_server_without_a_stream_for_its_own_messages_stays_connected(
    status: int, tmp_path: Path, record_logs: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = tmp_path / "ledger"
    caplog.set_level("DEBUG", "mcp.client.streamable_http")
    async with (
        raw_server(ledger=ledger, faults=[fault("status", status, on="GET"), fault("reset", on="ping")]) as server,
        MCPPool({"s": HttpServer(server.url, health=None)}) as pool,
    ):
        await eventually(lambda: [line for line in record_logs if "does not open a stream" in line])
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        await eventually(lambda: "max reconnection attempts" in caplog.text)  # the SDK has given up
        assert pool.server("s").generation == 1
        assert len(arrived(ledger, "GET")) == 1
        assert len([line for line in record_logs if "does not open a stream" in line]) == 1
        assert arrived(ledger, "ping") == []


async def test_a_session_lost_together_with_its_stream_is_detected_by_the_next_call(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON, health=None)}) as pool,
    ):
        await arrival(ledger, "GET")
        await server.order(streams="end", forget=True)
        await arrival(ledger, "GET", count=2)
        assert pool.server("s").generation == 1
        assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        assert (pool.server("s").generation, ran(ledger, "echo")) == (2, 1)


async def test_a_message_stream_that_ends_is_reopened_without_a_loss(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        for number in (1, 2, 3):
            await arrival(ledger, "GET", count=number)
            await server.order(streams="end")
        assert pool.server("s").generation == 1


async def test_a_message_stream_that_is_cut_again_and_again_is_probed_and_reopened_without_a_loss(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        for number in (1, 2, 3):
            await arrival(ledger, "GET", count=number)
            await eventually(lambda number=number: len(arrived(ledger, "ping")) == number - 1)
            await server.order(streams="cut")
        await arrival(ledger, "GET", count=4)
        assert pool.server("s").generation == 1
        assert len(arrived(ledger, "ping")) == 3


async def test_a_message_stream_that_cannot_be_opened_at_first_is_opened_later(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger, faults=[fault("reset", on="GET", times=2)]) as server,
        MCPPool({"s": HttpServer(server.url)}) as pool,
    ):
        await arrival(ledger, "GET", count=3)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


async def test_a_message_stream_that_is_rejected_after_it_was_open_is_opened_again(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        await arrival(ledger, "GET")
        await server.misbehave(fault("status", 503, on="GET", times=1))
        await server.order(streams="end")
        await arrival(ledger, "GET", count=3)
        assert arrived(ledger, "ping") == []
        assert pool.server("s").generation == 1


async def disconnected(pool: MCPPool) -> None:
    await pool.disconnect("s")


async def closed(pool: MCPPool) -> None:
    await pool.close_all()


async def restarted(pool: MCPPool) -> None:
    await pool.server("s").restart()


async def left(_pool: MCPPool) -> None:
    """Do nothing: the block ends."""


@pytest.mark.parametrize("end", [disconnected, closed, restarted, left])
async def test_a_legacy_session_is_ended_with_its_connection(
    end: Callable[[MCPPool], Awaitable[None]], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger) as server:
        async with MCPPool({"s": behind_url(server)}) as pool:
            (session,) = (await server.order())["sessions"]
            await end(pool)
            assert end is left or [line["session"] for line in arrived(ledger, "DELETE")] == [session]
        deleted = arrived(ledger, "DELETE")
        assert [line["session"] for line in deleted][:1] == [session]
        assert len(deleted) == (2 if end is restarted else 1)
        assert all(line["headers"]["mcp-protocol-version"] == "2025-11-25" for line in deleted)
        assert not (await server.order())["sessions"]


async def test_a_legacy_session_is_ended_when_its_server_has_failed(tmp_path: Path) -> None:
    ledger, trouble = tmp_path / "ledger", fault("status", 403, on="tools/list")
    async with raw_server(ledger=ledger, faults=[trouble]) as server, MCPPool(restart=RestartPolicy.never()) as pool:
        pool.add("s", HttpServer(server.url))
        await eventually(lambda: isinstance(pool.server("s").state, Failed))
        await arrival(ledger, "DELETE")
        assert not (await server.order())["sessions"]


@pytest.mark.parametrize("given_up_by", ["who waits", "connect_timeout"])
async def test_a_legacy_session_is_ended_when_its_attempt_is_cancelled(given_up_by: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(ledger=ledger, faults=[fault("silent", on="tools/list")]) as server, MCPPool() as pool:
        timeout = 3 if given_up_by == "connect_timeout" else None
        async with anyio.create_task_group() as group:
            group.start_soon(Outcome().of, pool.connect, "s", HttpServer(server.url, connect_timeout=timeout))
            await arrival(ledger, "tools/list")
            if timeout is None:
                group.cancel_scope.cancel()
        await arrival(ledger, "DELETE")
        await eventually(lambda: len(given_up(ledger)) == 1)


@pytest.mark.parametrize("state", ["dead", "silent"])
@pytest.mark.parametrize("end", [disconnected, closed, left])
async def test_a_server_that_does_not_answer_the_delete_does_not_delay_closing(
    state: str, end: Callable[[MCPPool], Awaitable[None]], tmp_path: Path
) -> None:
    async with raw_server() as server:
        with anyio.CancelScope() as bound:
            async with MCPPool(
                {f"s{number}": HttpServer(server.url) for number in range(5)}, close_timeout=0.5
            ) as pool:
                pool.add("s", HttpServer(server.url))
                await pool.wait_ready()
                await server.kill() if state == "dead" else server.pause()
                bound.deadline = anyio.current_time() + 4
                await end(pool)
            bound.deadline = math.inf
        assert not bound.cancelled_caught


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_cancelled_block_lets_its_body_call_tools_before_the_connections_end(
    protocol: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, calls, last = tmp_path / "ledger", [Outcome() for _ in range(5)], Outcome()
    async with raw_server(*protocol, ledger=ledger) as server:
        async with anyio.create_task_group() as outside, MCPPool({"s": HttpServer(server.url)}) as pool:
            try:
                for call in calls:
                    outside.start_soon(call.of, pool.call_tool, "s__silent")
                await arrival(ledger, tool="silent", count=len(calls))
                pool.cancel()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await last.of(pool.call_tool, "s__echo", {"text": "goodbye"})
        assert words(last.value) == "goodbye"
        assert all(isinstance(call.error, ConnectionLost) and call.error.may_have_run for call in calls)
        assert len(arrived(ledger, "DELETE")) == (0 if protocol else 1)
