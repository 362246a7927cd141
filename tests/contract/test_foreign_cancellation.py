"""asyncio's `CancelledError` out of user code, which nobody requested: it harms the request that it served, at most."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from loguru import logger

from helpers.callbacks import TOOLS, WORDS, Listener, asking, each_question, on_each_wire, said
from helpers.calls import Outcome, words
from helpers.common import eventually
from helpers.http import raw_server
from mcp_pool import (
    ConnectError,
    ConnectionStatus,
    HttpServer,
    InProcessServer,
    MCPPool,
    MCPPoolError,
    RestartPolicy,
)
from mcp_pool._shared.guard import ForeignCancellation, contained, contained_in_task
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

SOON = RestartPolicy(initial_delay=0.01)


def _loops() -> Iterator[Any]:
    yield pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
    if sys.platform != "win32":
        yield pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop")


@pytest.fixture(scope="module", params=list(_loops()))
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Without trio, on which nobody can raise a cancellation."""
    return request.param


async def cancelled_inside(*_arguments: Any) -> Any:
    """Await a task of its own that was cancelled."""
    task = asyncio.ensure_future(asyncio.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await task


class Cancelled(httpx2.Auth):
    """Ends with a cancellation for each request that carries a certain text."""

    def __init__(self, only: bytes = b"") -> None:
        self.only = only

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if self.only in request.content:
            await cancelled_inside()
        yield request


@each_question
@on_each_wire
async def test_a_callback_that_ends_with_it_fails_its_request_only(wire: str, kind: str) -> None:
    spec = asking(wire, callbacks=Listener().callbacks(**{kind: cancelled_inside}))
    async with MCPPool({"s": spec}) as pool:
        with suppress(MCPPoolError):  # on the modern protocol the call itself needs the answer
            assert "error" in await said(pool, TOOLS[kind])
        for other in TOOLS.keys() - {kind}:
            assert WORDS[other] in await said(pool, TOOLS[other])
        assert (pool.get_status("s"), pool.server("s").generation) == (ConnectionStatus.CONNECTED, 1)


@on_each_wire
@pytest.mark.parametrize("kind", ["logging", "message"])
async def test_a_callback_for_notifications_that_ends_with_it_is_called_again(wire: str, kind: str) -> None:
    called: list[Any] = []

    async def once(*arguments: Any) -> None:
        called.append(arguments)
        await cancelled_inside()

    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(**{kind: once}))}) as pool:
        await said(pool, "tell", arguments={"count": 3})
        await eventually(lambda: len(called) == 3)
        assert (pool.get_status("s"), pool.server("s").generation) == (ConnectionStatus.CONNECTED, 1)


async def test_a_progress_function_that_ends_with_it_fails_no_call() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        await pool.call_tool("s__progress", {"n": 3}, progress=cancelled_inside)
        assert pool.server("s").generation == 1


async def test_an_auth_flow_that_ends_with_it_is_a_failed_attempt() -> None:
    async with raw_server() as server, MCPPool({"good": InProcessServer(calculator())}) as pool:
        spec = HttpServer(server.url, auth=Cancelled(), restart=RestartPolicy(initial_delay=60))
        pool.add("s", spec)
        await eventually(lambda: pool.get_status("s") is ConnectionStatus.ERROR)
        assert isinstance(pool.server("s").last_error, ConnectError)
        assert words(await pool.call_tool("good__echo", {"text": "hello"})) == "hello"


async def test_an_auth_flow_that_ends_with_it_during_a_call_fails_that_call_only() -> None:
    slow = Outcome()
    async with raw_server() as server, MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("s", HttpServer(server.url, auth=Cancelled(only=b'"big"'), health=None))
        group.start_soon(slow.of, pool.call_tool, "s__sleep", {"seconds": 0.3})
        with pytest.raises(MCPPoolError):
            await pool.call_tool("s__big", {"n": 1})
        await slow.ended.wait()
        assert slow.error is None
        assert pool.server("s").generation == 1


class Breaking(httpx2.AsyncHTTPTransport):
    """Ends the first stream of the server's own messages with a cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if request.method == "GET" and not self.broken:
            self.broken += 1
            return httpx2.Response(response.status_code, headers=response.headers, stream=_Cancelled(response))
        return response


class _Cancelled(httpx2.AsyncByteStream):
    def __init__(self, response: httpx2.Response) -> None:
        self.response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await cancelled_inside()
        yield b""

    async def aclose(self) -> None:
        await self.response.aclose()


async def test_a_borrowed_client_whose_stream_ends_with_it_harms_no_call() -> None:
    transport = Breaking()
    async with raw_server() as server, httpx2.AsyncClient(transport=transport) as client, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, http_client=client, mode="legacy", health=None))
        await eventually(lambda: transport.broken)
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert pool.get_status("s") is ConnectionStatus.CONNECTED


@on_each_wire
async def test_a_caller_that_is_cancelled_while_its_callback_runs_ends_cancelled(wire: str) -> None:
    running, ended = anyio.Event(), anyio.Event()

    async def hanging(*_arguments: Any) -> Any:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(sampling=hanging))}) as pool:
        task = asyncio.create_task(pool.call_tool(f"s__{TOOLS['sampling']}"))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert WORDS["list_roots"] in await said(pool, TOOLS["list_roots"])
        assert pool.server("s").generation == 1
    await ended.wait()


async def test_user_code_is_told_apart_from_a_scope_that_was_cancelled() -> None:
    with pytest.raises(ForeignCancellation):
        await contained(cancelled_inside)
    with pytest.raises(ForeignCancellation):
        await contained_in_task(cancelled_inside)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await contained(anyio.sleep, 1)
    assert scope.cancelled_caught


async def test_a_log_sink_that_raises_it_changes_nothing() -> None:
    def sink(_message: str) -> None:
        raise asyncio.CancelledError

    number = logger.add(sink, level=0, filter="mcp_pool", catch=False)
    logger.enable("mcp_pool")
    try:
        async with MCPPool({"s": InProcessServer(calculator())}) as pool:
            assert await pool.disconnect("nobody") is False
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
    finally:
        logger.disable("mcp_pool")
        logger.remove(number)
