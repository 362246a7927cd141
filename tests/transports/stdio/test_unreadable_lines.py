"""Over stdio, a line that cannot be read fails the call that it answers, or is counted, and never just swallowed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import ProgressNotification, ProgressNotificationParams

from helpers.calls import PROTOCOLS, Outcome, answering, arrival, with_ledger, words
from helpers.common import connection_of, eventually
from helpers.secrets import shown
from helpers.stdio import ROOM
from helpers.unreadable import NO_ANSWERS, OK, READABLE, SPOILT
from mcp_pool import CallTimeout, ConnectError, InvalidResponse, MCPPool, StdioServer
from mcp_pool._shared.redaction import MAX_QUOTE
from servers import read_lines

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message

NULL_ID = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}'
NO_ID = NULL_ID.replace(b'"id":null,', b"")
PROGRESS = ProgressNotificationParams(progress_token=1, progress=1)
LONG = 60.0
"""A `call_timeout` that a test would notice."""
SHORT = 0.5
"""One that is waited for."""
PYTHON_CODE_OF_A_BANNER = "import os, sys; os.write(1, bytes.fromhex(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"


async def call_raw(pool: MCPPool, data: bytes, **options: Any) -> Any:
    """Have the server answer a call by these bytes."""
    return await pool.call_tool("s__raw", {"hex": data.hex()}, **options)


def behind(banner: bytes, *options: str, **fields: Any) -> StdioServer:
    """A server of `servers/answering.py` behind a program that writes something to standard output first."""
    server = answering(*options)
    arguments = ["-I", "-S", "-c", PYTHON_CODE_OF_A_BANNER, banner.hex(), server.command, *server.args]
    return StdioServer(sys.executable, arguments, **fields)


# Answers


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_an_answer_that_cannot_be_read_fails_its_call_at_once_and_nothing_else(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger, *options)}, call_timeout=LONG) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, "hold")
            for kind, (data, problem) in SPOILT.items():
                with anyio.fail_after(ROOM), pytest.raises(InvalidResponse) as caught:
                    await call_raw(pool, data)
                error = caught.value
                assert problem in error.reason, kind
                assert "a line that is not a JSON-RPC message" in error.reason
                assert "during the call to tool 'raw', which may have run" in error.reason
                assert error.reason.isprintable()
                assert "each line on standard output must be one JSON-RPC message" in error.advice
                assert (error.server_id, error.generation, error.phase, error.may_have_run) == ("s", 1, "call", True)
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("kind", READABLE)
async def test_an_answer_that_can_be_read_is_the_answer(kind: str) -> None:
    async with MCPPool({"s": answering()}, call_timeout=LONG) as pool:
        assert words(await call_raw(pool, READABLE[kind])) == "fine"


async def test_a_batch_fails_all_calls_that_it_answers(tmp_path: Path) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger)}, call_timeout=LONG) as pool:
        with anyio.fail_after(ROOM):
            async with anyio.create_task_group() as group:
                group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
                await arrival(ledger, "hold")
                (other,) = [line["id"] for line in read_lines(ledger) if line.get("tool") == "hold"]
                with pytest.raises(InvalidResponse):
                    await call_raw(pool, b"[%s,%s]" % ((OK % b"x").replace(b"@ID", b"%d" % other), OK % b"y"))
        assert isinstance(held.error, InvalidResponse)


async def test_what_is_shown_of_an_answer_is_cut_and_holds_no_secret() -> None:
    secret, other = 'tulip"7f3/a9c', "narcissus-41d"
    head = (OK % b"x").split(b"x")[0]
    begin = head + b'tulip\\"7f3\\/a9c ' + b"." * (MAX_QUOTE - len(head) - 24)
    async with MCPPool({"s": answering(env={"A": secret, "B": other})}, call_timeout=LONG) as pool:
        for data in (begin + other.encode() + b"\x1b" * 1000, begin + b"\x1b" + other.encode()):
            with pytest.raises(InvalidResponse) as caught:
                await call_raw(pool, data)
            assert "***" in caught.value.reason
            assert len(caught.value.reason) < 1000
            for part in (secret, r"tulip\"7f3", r"tulip\\", other, other[:6]):
                assert part not in shown(caught.value)


# Errors without an id


@pytest.mark.parametrize("error", [NULL_ID, NO_ID], ids=["null", "left out"])
async def test_an_error_without_an_id_is_the_answer_to_the_only_call(error: bytes) -> None:
    async with MCPPool({"s": answering()}, call_timeout=LONG) as pool:
        with anyio.fail_after(ROOM), pytest.raises(MCPError, match="Parse error") as caught:
            await call_raw(pool, error)
        assert caught.value.error.code == -32700
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"


@pytest.mark.parametrize("error", [NULL_ID, NO_ID], ids=["null", "left out"])
async def test_an_error_without_an_id_fails_no_call_when_two_are_open(error: bytes, tmp_path: Path) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger)}, call_timeout=LONG) as pool, anyio.create_task_group() as group:
        group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, "hold")
        with pytest.raises(CallTimeout, match="sent 1 line that is not JSON-RPC: .*Parse error"):
            await call_raw(pool, error, timeout=SHORT)
        await pool.call_tool("s__release", {"key": "a"})
    assert words(held.value) == "a"


async def test_an_error_without_an_id_fails_no_call_after_which_something_was_sent(tmp_path: Path) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    async with MCPPool({"s": with_ledger(ledger)}, call_timeout=LONG) as pool, anyio.create_task_group() as group:
        group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, "hold")
        # When the error arrives, the call that held is the only one that is open.
        await pool.call_tool("s__raw", {"hex": NULL_ID.hex(), "first": "answered"})
        await pool.call_tool("s__release", {"key": "a"})
    assert words(held.value) == "a"


async def test_an_error_without_an_id_fails_no_call_when_it_may_be_about_a_notification(tmp_path: Path) -> None:
    ledger, held = tmp_path / "ledger", Outcome()
    config = with_ledger(ledger, "--refuse-notifications")
    async with MCPPool({"s": config}, call_timeout=LONG) as pool, anyio.create_task_group() as group:
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__silent", timeout=SHORT)  # and a notification that it was cancelled
        group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, "hold")
        await pool.server("s").client.session.send_notification(ProgressNotification(params=PROGRESS))
        unreadable = connection_of(pool, "s").channel.unreadable
        await eventually(lambda: unreadable.total == 3)
        await pool.call_tool("s__release", {"key": "a"})
    assert words(held.value) == "a"


# What is counted


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_a_time_out_tells_of_unreadable_lines_that_came_meanwhile(kind: str) -> None:
    lines = [line for line in NO_ANSWERS[kind].split(b"\n") if line.strip()]
    async with MCPPool({"s": answering()}) as pool:
        assert words(await pool.call_tool("s__garbage", {"lines": 5})) == "sorry"
        with pytest.raises(CallTimeout) as caught:
            await call_raw(pool, NO_ANSWERS[kind], timeout=SHORT)
        count = "1 line that is" if len(lines) == 1 else f"{len(lines)} lines that are"
        assert f"Since the call began, it sent {count} not JSON-RPC" in caught.value.advice
        assert lines[0].decode().partition("@ID")[0] in caught.value.advice
        with pytest.raises(CallTimeout) as caught:
            await pool.call_tool("s__silent", timeout=SHORT)
        assert "JSON-RPC" not in str(caught.value)


async def test_what_a_time_out_shows_is_cut_on_one_line_and_holds_no_secret() -> None:
    line = b"\x1b[31mfailed for tulip-7f3a9c\xfc" + b"." * 1000
    async with MCPPool({"s": answering(env={"TOKEN": "tulip-7f3a9c"})}) as pool:
        with pytest.raises(CallTimeout) as caught:
            await call_raw(pool, line, timeout=SHORT)
    assert r"'\x1b[31mfailed for ***\xfc..." in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


async def test_the_first_unreadable_line_of_a_connection_is_logged_and_no_other(record_logs: list[Message]) -> None:
    async with MCPPool({"s": answering()}) as pool:
        await pool.call_tool("s__garbage", {"lines": 50})
        await pool.call_tool("s__garbage", {"lines": 50})
    (told,) = [message.record["message"] for message in record_logs if "JSON-RPC" in message]
    assert told == (
        "Server 's' writes lines to standard output that are not JSON-RPC; they are ignored. "
        "The first: 'this is not JSON {['"
    )


# In the handshake


@pytest.mark.parametrize("options", PROTOCOLS)
@pytest.mark.parametrize(
    "banner",
    [
        b"Starting up ... ",
        b"\x1b[0m",
        b'{"level":"info"} ',
        b"\xef\xbb\xbf",
        b"Starting up\n\n",
        b"\xef\xbb\xbfHello\n",
    ],
    ids=ascii,
)
async def test_text_before_the_first_message_costs_a_line_of_log_at_most(
    banner: bytes, options: tuple[str, ...], record_logs: list[Message]
) -> None:
    with anyio.fail_after(ROOM / 2):  # the SDK would wait 10 s for an answer to `server/discover`
        async with MCPPool({"s": behind(banner, *options)}) as pool:
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
            version = pool.snapshot().servers["s"].protocol_version
    assert (version == "2026-07-28") == bool(options)
    told = [message for message in record_logs if message.startswith("WARNING")]
    assert len(told) == (0 if banner == b"\xef\xbb\xbf" else 1)


async def test_a_request_in_a_log_before_the_first_message_is_no_message() -> None:
    banner = b'received {"jsonrpc":"2.0","id":1,"method":"ping"} and {"jsonrpc":"2.0","id":77,"result":{}}'
    async with MCPPool({"s": behind(banner + b"\n")}) as pool:
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


@pytest.mark.parametrize(
    ("method", "options", "phase"),
    [("initialize", (), "initialize"), ("tools/list", (), "list"), ("tools/list", ("--modern",), "list")],
)
async def test_a_handshake_that_cannot_be_read_fails_the_attempt_at_once(
    method: str, options: tuple[str, ...], phase: str
) -> None:
    async with MCPPool(connect_timeout=LONG) as pool:
        with anyio.fail_after(ROOM), pytest.raises(ConnectError) as caught:
            await pool.connect("s", answering("--without-jsonrpc", method, *options))
    assert caught.value.phase == phase
    assert '(jsonrpc: Field required): \'{"id": ' in caught.value.reason
    assert "each line on standard output must be one JSON-RPC message" in caught.value.advice


async def test_an_answer_to_the_probe_for_the_modern_protocol_that_cannot_be_read_is_no_answer() -> None:
    with anyio.fail_after(ROOM / 2):
        async with MCPPool({"s": answering("--modern", "--without-jsonrpc", "server/discover")}) as pool:
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
            assert pool.snapshot().servers["s"].protocol_version == "2025-11-25"
