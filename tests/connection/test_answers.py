"""Callers get what the server answers: results, errors with any code, and invalid responses."""

from __future__ import annotations

import traceback
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

from helpers.calls import PROTOCOLS, Outcome, answering, arrival, with_ledger, words
from helpers.common import eventually
from helpers.http import raw_server
from mcp_pool import ConnectionLost, HttpServer, InProcessServer, InvalidResponse, MCPPool
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mcp_pool import ServerConfig

CODES = [CONNECTION_CLOSED, REQUEST_TIMEOUT, -32601, -32602, -32603, -32042, 1, 404]
"""Codes of server errors; the SDK uses the first two for its own failures."""
BAD = {
    "bad_result": "violates the protocol",
    "malformed_envelope": "violates the protocol",
    "structured": "'a word' is not of type 'integer'",
    "unstructured": "did not return structured content",
}
"""Tools with invalid answers, and a part of the error message for each."""


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_result_with_is_error_is_returned(options: Sequence[str]) -> None:
    async with MCPPool({"s": answering(*options)}) as pool:
        result = await pool.call_tool("s__failed")
        assert result.is_error
        assert words(result) == "no luck"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_exception_in_an_in_process_tool_is_a_result_with_is_error(mode: str) -> None:
    async with MCPPool({"s": InProcessServer(calculator(), mode=mode)}) as pool:
        result = await pool.call_tool("s__fail")
        assert result.is_error
        assert words(result) == "Error executing tool fail"


async def test_structured_content_that_matches_the_schema_is_passed_on() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        assert (await pool.call_tool("s__add", {"a": 1, "b": 2})).structured_content == {"result": 3}


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_an_error_from_the_server_is_raised_whatever_its_code(options: Sequence[str]) -> None:
    async with MCPPool({"s": answering(*options)}) as pool:
        for code in CODES:
            with pytest.raises(MCPError) as caught:
                await pool.call_tool("s__error", {"code": code, "message": "as I said"})
            assert type(caught.value) is MCPError
            assert (caught.value.error.code, caught.value.error.message) == (code, "as I said")
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


async def test_an_error_that_looks_like_one_of_the_sdk_is_still_the_servers() -> None:
    async with MCPPool({"s": answering()}) as pool:
        for code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
            with pytest.raises(MCPError, match="Connection closed"):
                await pool.call_tool("s__error", {"code": code, "message": "Connection closed"})
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("options", PROTOCOLS)
@pytest.mark.parametrize("code", [CONNECTION_CLOSED, -32603])
async def test_an_error_from_the_server_is_raised_although_the_server_exits_at_once(
    options: Sequence[str], code: int
) -> None:
    async with MCPPool({"s": answering(*options)}) as pool:
        with pytest.raises(MCPError, match="my last error"):
            await pool.call_tool("s__error_and_die", {"code": code})
        await eventually(lambda: pool.server("s").generation == 2)


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_a_result_is_returned_although_the_server_exits_at_once(options: Sequence[str]) -> None:
    async with MCPPool({"s": answering(*options)}) as pool:
        assert words(await pool.call_tool("s__answer_and_die")) == "my last answer"
        await eventually(lambda: pool.server("s").generation == 2)


async def test_each_call_in_flight_gets_its_own_outcome_when_the_server_answers_one_and_exits(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    waiting, answered = Outcome(), Outcome()
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(waiting.of, pool.call_tool, "s__silent")
            await arrival(ledger, "silent")
            group.start_soon(answered.of, pool.call_tool, "s__error_and_die")
        assert isinstance(answered.error, MCPError)
        assert isinstance(waiting.error, ConnectionLost)
        assert waiting.error.may_have_run


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_an_answer_that_breaks_the_protocol_is_an_invalid_response_and_the_connection_stays_in_use(
    options: Sequence[str],
) -> None:
    async with MCPPool({"s": answering(*options)}) as pool:
        for tool, problem in BAD.items():
            with pytest.raises(InvalidResponse, match=problem) as caught:
                await pool.call_tool(f"s__{tool}")
            error = caught.value
            assert (error.server_id, error.generation, error.phase) == ("s", 1, "call")
            assert error.cause is not None
            assert f"'{tool}'" in str(error)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("wire", ["stdio", "http", "stream"])
async def test_a_result_of_the_modern_protocol_that_does_not_say_what_it_is_is_complete(wire: str) -> None:
    options = ("--modern", "--no-result-type")
    async with AsyncExitStack() as stack:
        config: ServerConfig = answering(*options)
        if wire != "stdio":
            more = ("--stream",) if wire == "stream" else ()
            config = HttpServer((await stack.enter_async_context(raw_server(*options, *more))).url)
        pool = await stack.enter_async_context(MCPPool())
        await pool.connect("s", config)
        assert pool.snapshot().servers["s"].protocol_version == "2026-07-28"
        assert words(await pool.call_tool("s__echo", {"text": "done"})) == "done"


async def test_an_invalid_response_does_not_show_secrets() -> None:
    secret = "correct horse battery"
    async with MCPPool({"s": answering(env={"TOKEN": secret})}) as pool:
        with pytest.raises(InvalidResponse) as caught:
            await pool.call_tool("s__leak", {"name": "TOKEN"})
    assert "***" in str(caught.value)
    assert secret not in "".join(traceback.format_exception(caught.value))


async def test_garbage_between_messages_is_harmless() -> None:
    async with MCPPool({"s": answering()}) as pool:
        assert words(await pool.call_tool("s__garbage", {"lines": 50})) == "sorry"
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"


async def test_a_long_answer_arrives_whole() -> None:
    async with MCPPool({"s": answering()}) as pool:
        assert words(await pool.call_tool("s__big", {"n": 2_000_000})) == "x" * 2_000_000


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_error_from_an_in_process_server_is_raised_whatever_its_code(mode: str) -> None:
    server = calculator()

    @server.tool()
    def refuse(code: int) -> None:
        """Answer a JSON-RPC error."""
        raise MCPError(code=code, message="Connection closed")

    async with MCPPool({"s": InProcessServer(server, mode=mode)}) as pool:
        for code in CODES:
            with pytest.raises(MCPError) as caught:
                await pool.call_tool("s__refuse", {"code": code})
            assert (caught.value.error.code, caught.value.error.message) == (code, "Connection closed")
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
        assert pool.server("s").generation == 1
