"""The text of errors: a reason that may be passed to a model, and advice that an operator can follow."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
import httpx2
import pytest
from mcp import MCPError

from helpers.calls import Outcome, answering
from helpers.common import eventually, scripted
from helpers.fake import FAKE, Life, fake_wire
from helpers.http import fault, raw_server, refused_port
from helpers.secrets import shown
from helpers.user_code import BAD, Flow, behind, is_bad
from mcp_pool import (
    ClientCallbacks,
    ConfigError,
    ConnectError,
    ConnectionLost,
    HttpServer,
    HttpStatusError,
    InProcessServer,
    InvalidResponse,
    MCPPool,
    MCPPoolError,
    RestartPolicy,
    ServerUnavailable,
    SseServer,
    StdioServer,
    UnknownTool,
)
from mcp_pool._shared.readable import REASON_LIMIT
from servers.in_process import calculator, raising_lifespan

SECRET = "tulip-7f3a9c"
HEADERS = {"X-Key": SECRET}
LOCKED = f"the key ring of {SECRET} is locked."
ONCE = RestartPolicy.never()


def check(error: BaseException | None, *said: str) -> None:
    """Check that the reason of an error contains these words and is readable, and that its advice can be followed."""
    assert isinstance(error, MCPPoolError)
    assert [words for words in said if words not in error.reason] == []
    assert error.reason.isprintable()
    assert len(error.reason.encode()) <= REASON_LIMIT
    assert error.reason.endswith(".")
    assert not error.reason.endswith("..")
    assert "cause" not in error.advice
    assert not error.stderr_tail or error.stderr_tail not in error.reason
    assert str(error).startswith(f"{error.reason} {error.advice}".rstrip())
    assert SECRET not in shown(error)


async def locked(_request: httpx2.Request) -> None:
    raise RuntimeError(LOCKED)


async def failure(spec: Any, **settings: Any) -> ConnectError:
    """Return why a server cannot be connected."""
    async with MCPPool(restart=ONCE, **settings) as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", spec)
    assert caught.value.advice
    return caught.value


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_the_reason_contains_the_text_of_what_an_authorization_flow_raises_in_the_handshake(
    kind: type[HttpServer | SseServer],
) -> None:
    error = await failure(kind("http://127.0.0.1:9/mcp", headers=HEADERS, auth=Flow(locked)))
    check(error, "RuntimeError", ": the key ring of *** is locked.")
    assert "auth" in error.advice


@pytest.mark.parametrize("place", ["auth", "event hook", "transport"])
async def test_the_reason_contains_the_text_of_what_user_code_raises_in_a_call(place: str) -> None:
    async def trouble(request: httpx2.Request) -> None:
        if is_bad(request):
            await locked(request)

    async with (
        raw_server("--modern") as server,
        behind(server.url, place, trouble, headers=HEADERS) as spec,
        MCPPool({"s": spec}) as pool,
    ):
        with pytest.raises(ConnectionLost) as caught:
            await pool.call_tool("s__echo", {"text": BAD})
        check(caught.value, "RuntimeError", "the call to tool 'echo'", ": the key ring of *** is locked.")


async def test_the_reason_for_an_unreachable_server_contains_the_network_error() -> None:
    with refused_port() as port:
        for kind in (HttpServer, SseServer):
            error = await failure(kind(f"http://127.0.0.1:{port}/mcp"))
            check(
                error, f"could not be reached at http://127.0.0.1:{port} (connection refused) during ", str(error.cause)
            )
            assert str(error.cause)


@pytest.mark.parametrize("status", [401, 503, 404])
async def test_a_rejection_is_reported_once_with_advice_that_can_be_followed(status: int) -> None:
    async with raw_server("--modern", faults=[fault("status", status)]) as server:
        error = await failure(HttpServer(server.url))
        check(error, f"HTTP status {status}")
        assert error.reason.count(str(status)) == 1
        assert ("connect()" in error.advice) == (status == 401)
    async with raw_server("--modern") as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        await server.misbehave(fault("status", status, on="tools/call:echo"))
        with pytest.raises(HttpStatusError) as caught:
            await pool.call_tool("s__echo", {"text": "x"})
        check(caught.value, f"HTTP status {status}")
        assert ("connect()" in caught.value.advice) == (status == 401)


async def test_the_reason_contains_the_text_of_what_an_in_process_server_raises() -> None:
    error = await failure(InProcessServer(raising_lifespan(error=OSError("no\n\x1b[31mdisk"))))
    check(error, "OSError: no [31mdisk.")


async def test_the_reason_contains_the_exit_status_of_a_process_but_not_its_standard_error() -> None:
    error = await failure(scripted("--exit-at-start", 3, "--say", "no database"))
    check(error, "exited with status 3")
    assert error.stderr_tail == "no database"
    check(await failure(StdioServer("no-such-program-anywhere")), "no-such-program-anywhere", "No such file")


async def test_the_reason_for_an_invalid_result_does_not_show_the_result() -> None:
    async with MCPPool({"s": answering(env={"TOKEN": SECRET})}) as pool:
        with pytest.raises(InvalidResponse) as caught:
            await pool.call_tool("s__bad_result")
        check(caught.value, "a result that violates the protocol", "content")
        assert "input_value" not in str(caught.value)


async def test_the_reason_contains_the_text_of_what_the_callbacks_function_raises() -> None:
    def callbacks(_server_id: str) -> ClientCallbacks:
        raise RuntimeError(LOCKED)

    async with MCPPool(callbacks=callbacks) as pool:
        with pytest.raises(ConfigError) as caught:
            pool.add("s", StdioServer("program", env={"KEY": SECRET}))
        check(caught.value, "callbacks", "RuntimeError: the key ring of *** is locked.")
        assert isinstance(caught.value.cause, Exception)


async def test_a_call_to_a_failed_server_reports_its_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(is_final=True))
    async with MCPPool(wait_timeout=0) as pool:
        pool.add("s", FAKE)
        await eventually(lambda: pool.snapshot().servers["s"].state == "Failed")
        with pytest.raises(ServerUnavailable) as caught:
            await pool.call_tool("s__anything")
        check(caught.value, "has failed", "last error: Server 's' is not there")
        assert isinstance(caught.value.cause, ConnectError)
        assert "restart()" in caught.value.advice
        assert "restart()" not in caught.value.reason


async def test_a_call_to_an_excluded_tool_names_the_filters() -> None:
    async with MCPPool({"s": InProcessServer(calculator(), exclude_tools=["add"])}) as pool:
        with pytest.raises(UnknownTool) as caught:
            await pool.server("s").call_tool("add", {"a": 1, "b": 2})
        check(caught.value, "'add'", "exclude_tools")
        assert caught.value.advice


@pytest.mark.parametrize("how", ["close_all", "drain", "block"])
async def test_a_call_that_waits_for_a_server_is_told_that_the_pool_was_closed(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_wire(monkeypatch, Life(fails=True))
    called, found = Outcome(), Outcome()
    async with anyio.create_task_group() as group, MCPPool(restart=RestartPolicy(initial_delay=1000)) as pool:
        pool.add("s", FAKE)
        await eventually(lambda: pool.snapshot().servers["s"].state == "BackingOff")
        group.start_soon(called.of, pool.server("s").call_tool, "echo")
        group.start_soon(found.of, pool.call_tool, "s__echo")
        await anyio.wait_all_tasks_blocked()
        if how != "block":
            await pool.close_all(drain=0.1 if how == "drain" else 0)
    for outcome in (called, found):
        assert isinstance(outcome.error, ServerUnavailable)
        check(outcome.error, "'s' was closed with all servers of the pool")


async def test_a_call_that_waits_for_a_slot_of_a_server_that_fails_keeps_the_cause() -> None:
    spec = scripted("--modern", max_in_flight=1, restart=ONCE)
    async with MCPPool({"s": spec}) as pool, anyio.create_task_group() as group:
        first, second = Outcome(), Outcome()
        group.start_soon(first.of, pool.call_tool, "s__silent")
        await eventually(lambda: pool.snapshot().calls_in_flight)
        group.start_soon(second.of, pool.call_tool, "s__echo")
        await anyio.wait_all_tasks_blocked()
        process_id = pool.snapshot().servers["s"].process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        await second.ended.wait()
        check(second.error, "has failed", "SIGKILL")
        assert isinstance(second.error, ServerUnavailable)
        assert isinstance(second.error.cause, ConnectionLost)


def test_a_reason_is_limited_in_bytes_and_cut_between_two_characters() -> None:
    error = MCPPoolError("é" * 3000)
    assert len(error.reason.encode()) <= REASON_LIMIT
    assert error.reason == "é" * ((REASON_LIMIT - 3) // 2) + "…"
    assert MCPPoolError("x" * REASON_LIMIT).reason == "x" * REASON_LIMIT


def test_a_reason_has_no_control_characters() -> None:
    assert MCPPoolError("a\x1b[2J\r\nb\u202ec\ud800.").reason == "a [2J b c ."


async def test_a_servers_own_error_passes_through_untouched() -> None:
    async with MCPPool({"s": scripted()}) as pool:
        with pytest.raises(MCPError):
            await pool.server("s").get_prompt("unknown")
