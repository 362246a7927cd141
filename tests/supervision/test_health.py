"""Health checks on real transports: what is probed, what counts as activity, how a stopped server is detected."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.calls import PROTOCOLS, Outcome, arrival, with_ledger, words
from helpers.common import PATIENCE, connection_of, eventually
from helpers.http import ServerProcess, arrived, fault, given_up, raw_server
from mcp_pool import (
    CallTimeout,
    ConnectionLost,
    ConnectionStatus,
    HealthCheck,
    HttpServer,
    MCPPool,
    RestartPolicy,
    SseServer,
)
from servers import is_alive, read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mcp_pool.transports.channel import Channel

SOON = RestartPolicy(initial_delay=0.01, max_delay=0.1)
HASTY = HealthCheck(interval=1.2, timeout=0.2, failure_threshold=2)
"""For servers whose silence is to be detected."""
PATIENT = HealthCheck(interval=0.05, timeout=20)
"""For servers that are probed often and never considered lost, however slow the machine is."""
RARE = HealthCheck(interval=1e6, timeout=20)
"""For servers that are probed only when they are suspect."""
QUESTIONS = {"ping": "legacy", "server/discover": "modern"}


def asked(ledger: Path) -> list[str]:
    """The probes that a server received after its first listing, over all its starts."""
    methods = [line["method"] for line in read_lines(ledger) if line.get("method")]
    behind = methods[methods.index("tools/list") :] if "tools/list" in methods else []
    return [method for method in behind if method in QUESTIONS]


def channel_of(pool: MCPPool) -> Channel:
    """The channel of the server `s`."""
    return connection_of(pool, "s").channel


def url_spec(server: ServerProcess, wire: str, **fields: Any) -> HttpServer | SseServer:
    """The spec of a server behind a URL."""
    return SseServer(server.sse_url, **fields) if wire == "sse" else HttpServer(server.url, **fields)


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_stopped_stdio_server_is_detected_killed_with_its_process_group_and_reconnected(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger, pids, call = tmp_path / "ledger", tmp_path / "pids", Outcome()
    spec = with_ledger(ledger, *options, "--helper", "--pid-file", str(pids), restart=SOON, close_timeout=0.3)
    async with MCPPool({"s": spec}, health=HASTY) as pool, anyio.create_task_group() as group:
        group.start_soon(call.of, pool.call_tool, "s__silent")
        await arrival(ledger, "silent")
        first = [line["pid"] for line in read_lines(pids)]
        os.kill(first[0], signal.SIGSTOP)
        await call.ended.wait()
        assert isinstance(call.error, ConnectionLost)
        assert call.error.may_have_run
        assert "failed 2 health checks in a row (0.2 s each)" in str(call.error)
        await eventually(lambda: pool.server("s").generation >= 2)
        assert not is_alive(first[0])  # before the next one was connected
        await eventually(lambda: not any(map(is_alive, first)))  # the helper was killed with it
        assert len(first) == 2
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_stdio_server_is_probed_as_its_protocol_requires_without_side_effects(
    options: Sequence[str], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, *options)}, health=PATIENT) as pool:
        server = pool.server("s")
        assert server.info is not None
        assert server.client is not None
        version = server.info.protocol_version
        await eventually(lambda: len(asked(ledger)) >= 3)
        assert {QUESTIONS[method] for method in asked(ledger)} == {"modern" if options else "legacy"}
        assert server.client.protocol_version == version
        assert words(await pool.call_tool("s__echo", {"text": "still here"})) == "still here"
        assert (server.generation, server.status) == (1, ConnectionStatus.CONNECTED)


async def test_without_a_health_check_a_server_is_never_probed(tmp_path: Path) -> None:
    asking, never = tmp_path / "asking", tmp_path / "never"
    servers = {"asking": with_ledger(asking), "never": with_ledger(never, health=None)}
    async with MCPPool(servers, health=PATIENT) as pool:
        await eventually(lambda: len(asked(asking)) >= 5)
        with pytest.raises(CallTimeout):
            await pool.call_tool("never__silent", timeout=0)
        await eventually(lambda: len(asked(asking)) >= 8)
    assert asked(never) == []


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_notifications_and_progress_count_as_activity_over_stdio(options: Sequence[str], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, *options)}, health=RARE) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, "hold")
        channel = channel_of(pool)
        before = channel.activity_count
        await pool.call_tool("s__advance", {"key": "a"})  # delivers the progress of the other call, and a response
        assert channel.activity_count > before
        assert channel.last_activity_at == pytest.approx(anyio.current_time(), abs=5)
        await pool.call_tool("s__release", {"key": "a"})
    assert asked(ledger) == []


@pytest.mark.parametrize(("wire", "options"), [("http", ()), ("http", ("--modern",)), ("sse", ())])
async def test_each_message_on_a_stream_counts_as_activity_behind_a_url(wire: str, options: Sequence[str]) -> None:
    async with (
        raw_server(*options) as server,
        MCPPool({"s": url_spec(server, wire)}, health=RARE) as pool,
    ):
        channel = channel_of(pool)
        before = channel.activity_count
        await pool.call_tool("s__progress", {"steps": 20})
        assert channel.activity_count >= before + 20
        before = channel.activity_count
        while not options and channel.activity_count == before:  # the stream may not be open yet
            await server.order(send={"jsonrpc": "2.0", "method": "notifications/message", "params": {}})


@pytest.mark.parametrize("wire", ["http", "sse"])
async def test_legacy_servers_behind_a_url_are_pinged(wire: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": url_spec(server, wire)}, health=PATIENT) as pool,
    ):
        await eventually(lambda: asked(ledger)[:3] == ["ping"] * 3)
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("wire", ["http", "sse"])
async def test_a_stopped_legacy_server_behind_a_url_is_detected_and_reconnects(wire: str, tmp_path: Path) -> None:
    ledger, call = tmp_path / "ledger", Outcome()
    async with (
        raw_server(ledger=ledger) as server,
        MCPPool({"s": url_spec(server, wire, restart=SOON, close_timeout=0.2)}, health=HASTY) as pool,
        anyio.create_task_group() as group,
    ):
        group.start_soon(call.of, pool.call_tool, "s__silent")
        await eventually(lambda: arrived(ledger, tool="silent"))
        server.pause()
        await call.ended.wait()
        assert isinstance(call.error, ConnectionLost)
        assert "health checks in a row" in str(call.error)
        server.resume()
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"
        assert pool.server("s").generation >= 2


async def test_a_modern_server_behind_a_url_is_probed_once_after_a_call_that_failed_or_timed_out(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server("--modern", ledger=ledger, faults=[fault("reset", on="tools/call:pid")]) as server,
        MCPPool({"s": HttpServer(server.url)}, health=HealthCheck(interval=0.05, timeout=20)) as pool,
    ):
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        await anyio.sleep(0.3)  # several intervals: it is not probed, however long it is silent
        assert asked(ledger) == []
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__pid")
        await eventually(lambda: asked(ledger) == ["server/discover"])
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__silent", timeout=0.1)
        await eventually(lambda: asked(ledger) == ["server/discover"] * 2)
        await anyio.sleep(0.3)  # likewise
        assert asked(ledger) == ["server/discover"] * 2
        assert (pool.server("s").generation, pool.get_status("s")) == (1, ConnectionStatus.CONNECTED)


async def test_a_stopped_modern_server_behind_a_url_is_detected_after_a_call_has_timed_out(
    tmp_path: Path,
) -> None:
    async with (
        raw_server("--modern") as server,
        MCPPool({"s": HttpServer(server.url, restart=SOON, close_timeout=0.2)}, health=HASTY) as pool,
    ):
        server.pause()
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__echo", timeout=0.1)
        await eventually(lambda: pool.get_status("s") is not ConnectionStatus.CONNECTED)
        assert "health checks in a row" in str(pool.server("s").last_error)
        server.resume()
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"


@pytest.mark.parametrize(("do", "value"), [("silent", None), ("half_stream", "stall"), ("half_body", "stall")])
async def test_probes_that_are_never_answered_leave_no_task_and_no_connection_behind(
    do: str, value: str | None, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    check = HealthCheck(interval=0.05, timeout=0.05, failure_threshold=1_000_000)
    async with (
        raw_server(ledger=ledger, faults=[fault(do, value, on="ping")]) as server,
        MCPPool({"s": HttpServer(server.url)}, health=check) as pool,
    ):

        async def held(questions: int) -> tuple[int, int]:
            """The numbers of tasks and of connections to the server, once this many probes have been given up."""
            await eventually(lambda: sum(gone["method"] == "ping" for gone in given_up(ledger)) >= questions)
            return len(anyio.get_running_tasks()), (await server.order())["connections"]

        tasks, connections = await held(5)
        more_tasks, more_connections = await held(25)
        assert more_tasks <= tasks + 10
        # A server that was paused for a moment counts too many of them until it has checked.
        with anyio.fail_after(PATIENCE):
            while more_connections > connections + 10:
                _, more_connections = await held(25)
        assert words(await pool.call_tool("s__echo", {"text": "alive"})) == "alive"
        assert pool.server("s").generation == 1


async def test_a_failed_probe_is_not_repeated_once_the_server_has_shown_activity(tmp_path: Path) -> None:
    ledger, question = tmp_path / "ledger", "server/discover"
    async with (
        raw_server("--modern", ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url)}, health=HealthCheck(timeout=2.5, failure_threshold=2)) as pool,
    ):
        before = len(arrived(ledger, question))
        await server.misbehave(fault("reset", on=question), fault("reset", on="tools/call:pid"))
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__pid")
        await eventually(lambda: len(arrived(ledger, question)) == before + 1)
        assert words(await pool.call_tool("s__echo", {"text": "alive"})) == "alive"
        await eventually(lambda: not any("probe of" in (task.name or "") for task in anyio.get_running_tasks()))
        await anyio.sleep(0.3)  # a second probe would have arrived by now
        assert len(arrived(ledger, question)) == before + 1
        assert (pool.server("s").generation, pool.get_status("s")) == (1, ConnectionStatus.CONNECTED)


@pytest.mark.parametrize(("status", "is_lost"), [(405, False), (429, False), (500, True), (503, True)])
async def test_an_http_status_below_500_counts_as_activity_and_a_higher_one_does_not(
    status: int, is_lost: bool, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    check = HealthCheck(interval=0.1, timeout=1.5, failure_threshold=2) if is_lost else PATIENT
    async with (
        raw_server(ledger=ledger, faults=[fault("status", status, on="ping")]) as server,
        MCPPool({"s": HttpServer(server.url, restart=RestartPolicy.never())}, health=check) as pool,
    ):
        if is_lost:
            await eventually(lambda: pool.get_status("s") is ConnectionStatus.ERROR)
            assert "health checks in a row" in str(pool.server("s").last_error)
            assert asked(ledger) == ["ping", "ping"]
        else:
            await eventually(lambda: len(asked(ledger)) >= 4)
            assert pool.get_status("s") is ConnectionStatus.CONNECTED


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_call_that_timed_out_leaves_the_connection_in_use(options: Sequence[str], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool({"s": with_ledger(ledger, *options)}, health=RARE) as pool:
        for count in (1, 2):
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__silent", timeout=0.1)
            await eventually(lambda count=count: len(asked(ledger)) == count)
        assert words(await pool.call_tool("s__echo", {"text": "alive"})) == "alive"
        assert (pool.server("s").generation, pool.get_status("s")) == (1, ConnectionStatus.CONNECTED)


@pytest.mark.parametrize("wire", ["stdio", "http", "sse"])
async def test_a_running_probe_does_not_delay_a_disconnect(wire: str, tmp_path: Path) -> None:
    """The server is stopped and takes all of `close_timeout`; the probe would wait for much longer."""
    check = HealthCheck(interval=0.1, timeout=1000)
    async with raw_server() as server:
        fields: dict[str, Any] = {"health": check, "close_timeout": 0.3}
        spec = with_ledger(tmp_path / "ledger", **fields) if wire == "stdio" else url_spec(server, wire, **fields)
        async with MCPPool({"s": spec}) as pool:
            process = pool.snapshot().servers["s"].process_id
            os.kill(server.pid if process is None else process, signal.SIGSTOP)
            await eventually(lambda: any("probe of" in (task.name or "") for task in anyio.get_running_tasks()))
            with anyio.fail_after(10):
                await pool.disconnect("s")
            assert not any("probe of" in (task.name or "") for task in anyio.get_running_tasks())
