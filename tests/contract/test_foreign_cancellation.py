"""A `CancelledError` raised by user code that nobody requested: at most the request being served fails."""

from __future__ import annotations

import asyncio
import math
import re
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx2
import pytest
from loguru import logger
from mcp.server import Server as LowLevelServer

from helpers.callbacks import TOOLS, WORDS, Listener, asking, each_question, on_each_wire, said
from helpers.calls import Outcome, words
from helpers.common import eventually
from helpers.foreign import cancelled_inside
from helpers.http import arrival, raw_server
from helpers.http_calls import in_flight
from helpers.user_code import BAD, PLACES, behind, is_bad, pool_with_a_good_server, stands
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Event,
    HttpServer,
    InProcessServer,
    MCPPool,
    MCPPoolError,
    RestartPolicy,
    SseServer,
    StatusChanged,
)
from mcp_pool._shared.guard import ForeignCancellation, contained, contained_in_task
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from mcp.server.mcpserver import MCPServer

SOON = RestartPolicy(initial_delay=0.01)


def _loops() -> Iterator[Any]:
    yield pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
    if sys.platform != "win32":
        yield pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop")


@pytest.fixture(scope="module", params=list(_loops()))
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Without trio, where user code cannot raise a cancellation."""
    return request.param


@each_question
@on_each_wire
async def test_a_callback_that_raises_a_cancellation_fails_only_its_request(wire: str, kind: str) -> None:
    spec = asking(wire, callbacks=Listener().callbacks(**{kind: cancelled_inside}))
    async with MCPPool({"s": spec}) as pool:
        with suppress(MCPPoolError):  # on the modern protocol the call itself needs the answer
            assert "error" in await said(pool, TOOLS[kind])
        for other in TOOLS.keys() - {kind}:
            assert WORDS[other] in await said(pool, TOOLS[other])
        assert (pool.get_status("s"), pool.server("s").generation) == (ConnectionStatus.CONNECTED, 1)


@on_each_wire
@pytest.mark.parametrize("kind", ["logging", "message"])
async def test_a_notification_callback_that_raises_a_cancellation_is_called_again(wire: str, kind: str) -> None:
    called: list[Any] = []

    async def once(*arguments: Any) -> None:
        called.append(arguments)
        await cancelled_inside()

    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(**{kind: once}))}) as pool:
        await said(pool, "tell", arguments={"count": 3})
        await eventually(lambda: len(called) == 3)
        assert (pool.get_status("s"), pool.server("s").generation) == (ConnectionStatus.CONNECTED, 1)


async def test_a_progress_function_that_raises_a_cancellation_fails_no_call() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        await pool.call_tool("s__progress", {"n": 3}, progress=cancelled_inside)
        assert pool.server("s").generation == 1


# In code around a request


async def always(_request: httpx2.Request) -> None:
    await cancelled_inside()


async def when_bad(request: httpx2.Request) -> None:
    if is_bad(request):
        await cancelled_inside()


@pytest.mark.parametrize("place", PLACES)
async def test_user_code_that_raises_a_cancellation_in_the_handshake_fails_the_attempt(place: str) -> None:
    policy = RestartPolicy(initial_delay=60)
    async with (
        raw_server() as server,
        behind(server.url, place, always, restart=policy) as spec,
        pool_with_a_good_server() as pool,
    ):
        with pytest.raises(ConnectError, match="ForeignCancellation"):
            await pool.connect("s", spec)
        pool.add("s", spec)
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))
        assert isinstance(pool.server("s").last_error, ConnectError)


@pytest.mark.parametrize("place", PLACES)
async def test_user_code_that_raises_a_cancellation_during_a_call_fails_only_that_call(
    place: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger) as server,
        behind(server.url, place, when_bad) as spec,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", spec)
        async with in_flight(pool, ledger, count=1):
            with pytest.raises(MCPPoolError, match="ForeignCancellation"):
                await pool.call_tool("s__echo", {"text": BAD})
        assert stands(pool)


@pytest.mark.parametrize(
    ("place", "reason"),
    [("auth", "request (ForeignCancellation)"), ("headers", "function raised ForeignCancellation)")],
)
async def test_user_code_that_raises_a_cancellation_before_a_post_fails_only_its_call(
    place: str, reason: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server(ledger=ledger) as server,
        behind(server.sse_url, place, when_bad, kind=SseServer) as spec,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", spec)
        async with in_flight(pool, ledger, count=1):
            with pytest.raises(ConnectionLost, match=re.escape(reason)) as caught:
                await pool.call_tool("s__echo", {"text": BAD})
            assert not caught.value.may_have_run
        assert stands(pool)


# In a response body


@attrs.define(eq=False)
class Body(httpx2.AsyncByteStream):
    """A body that raises a cancellation: at once, on request, or when it is closed."""

    real: Any
    end: str
    broken: anyio.Event

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.end == "at once":
            await cancelled_inside()
        async for chunk in self.real:
            yield chunk
        if self.end == "at the end":
            await cancelled_inside()

    async def aclose(self) -> None:
        await self.real.aclose()
        self.broken.set()
        if self.end == "when closed":
            await cancelled_inside()


@attrs.define(eq=False)
class Breaking(httpx2.AsyncBaseTransport):
    """Breaks the response bodies of some requests, or only of the first few of them."""

    breaks: Callable[[httpx2.Request], bool]
    end: str = "at once"
    times: float = math.inf
    count: int = 0
    broken: anyio.Event = attrs.Factory(anyio.Event)
    real: httpx2.AsyncHTTPTransport = attrs.Factory(partial(httpx2.AsyncHTTPTransport, verify=False))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self.real.handle_async_request(request)
        if self.breaks(request) and self.count < self.times:
            self.count += 1
            response.stream = Body(response.stream, self.end, self.broken)
        return response

    async def aclose(self) -> None:
        await self.real.aclose()


def is_get(request: httpx2.Request) -> bool:
    return request.method == "GET"


def of(method: bytes) -> Callable[[httpx2.Request], bool]:
    """Return a predicate for requests with a message of this method."""
    return lambda request: method in request.content


@pytest.mark.parametrize("end", ["at once", "at the end", "when closed"])
@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["json", "stream"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_response_body_that_raises_a_cancellation_fails_only_its_call(
    mode: Any, options: tuple[str, ...], end: str, tmp_path: Path
) -> None:
    ledger, failed = tmp_path / "ledger", Outcome()
    modern = ("--modern",) if mode == "auto" else ()
    async with (
        raw_server(*options, *modern, ledger=ledger) as server,
        httpx2.AsyncClient(transport=Breaking(is_bad, end)) as client,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", HttpServer(server.url, http_client=client, mode=mode))
        async with in_flight(pool, ledger, count=1):
            await failed.of(pool.call_tool, "s__echo", {"text": BAD})
        # A break after the response must not disturb anything.
        assert isinstance(failed.error, MCPPoolError) or words(failed.value) == BAD
        assert stands(pool)


@pytest.mark.parametrize("end", ["at once", "at the end", "when closed"])
@pytest.mark.parametrize("method", [b"initialize", b"notifications/initialized", b"tools/list"])
async def test_a_response_body_that_raises_a_cancellation_in_the_handshake_is_followed_by_the_next_attempt(
    method: bytes, end: str
) -> None:
    transport = Breaking(of(method), end, times=1)
    async with (
        raw_server() as server,
        httpx2.AsyncClient(transport=transport) as client,
        pool_with_a_good_server() as pool,
    ):
        pool.add("s", HttpServer(server.url, http_client=client, mode="legacy", restart=SOON))
        await eventually(lambda: pool.get_status("s") is ConnectionStatus.CONNECTED)
        assert transport.count == 1
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


@pytest.mark.parametrize("end", ["at once", "when closed"])
async def test_a_stream_for_the_servers_own_messages_that_raises_a_cancellation_once_disturbs_nothing(
    end: str, tmp_path: Path
) -> None:
    ledger, transport = tmp_path / "ledger", Breaking(is_get, end, times=1)
    async with (
        raw_server(ledger=ledger) as server,
        httpx2.AsyncClient(transport=transport) as client,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", HttpServer(server.url, http_client=client, mode="legacy", restart=SOON))
        async with in_flight(pool, ledger, count=1):
            if end == "when closed":
                await arrival(ledger, "GET")
                await server.order(streams="end")
            await transport.broken.wait()
            await arrival(ledger, "GET", count=2)
        assert stands(pool)


async def test_an_optional_stream_that_always_raises_a_cancellation_disturbs_nothing() -> None:
    transport = Breaking(is_get)
    async with (
        raw_server() as server,
        httpx2.AsyncClient(transport=transport) as client,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", HttpServer(server.url, http_client=client, mode="legacy", restart=SOON))
        await eventually(lambda: transport.count >= 3)
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert stands(pool)


async def test_a_stream_over_sse_that_always_raises_a_cancellation_fails_the_handshake() -> None:
    transport = Breaking(is_get)
    async with (
        raw_server() as server,
        httpx2.AsyncClient(transport=transport) as client,
        pool_with_a_good_server() as pool,
    ):
        pool.add("s", SseServer(server.sse_url, http_client=client, mode="legacy", restart=SOON))
        await eventually(lambda: isinstance(pool.server("s").last_error, ConnectError))
        transport.times = 0
        await eventually(lambda: pool.get_status("s") is ConnectionStatus.CONNECTED)
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


async def next_error(events: AsyncIterator[Event], kind: type[Exception]) -> StatusChanged:
    """Wait until the pool reports such an error."""
    async for event in events:
        if isinstance(event, StatusChanged) and isinstance(event.error, kind):
            return event
    raise AssertionError("the events have ended")


# In an in-process server


def breaking(**more: Any) -> MCPServer[Any]:
    """A calculator with a tool that raises a cancellation."""
    server = calculator(**more)

    @server.tool("break", structured_output=False)
    async def break_down() -> str:
        return str(await cancelled_inside())

    return server


async def test_a_tool_of_a_modern_in_process_server_that_raises_a_cancellation_fails_only_its_call() -> None:
    slow = Outcome()
    async with pool_with_a_good_server() as pool, anyio.create_task_group() as group:
        await pool.connect("s", InProcessServer(breaking()))
        group.start_soon(slow.of, pool.call_tool, "s__sleep", {"seconds": 0.1})
        await eventually(lambda: pool.snapshot().calls_in_flight)
        with pytest.raises(Exception, match="nobody had requested"):
            await pool.call_tool("s__break")
        await slow.ended.wait()
        assert slow.error is None
        assert stands(pool)


async def test_a_tool_of_a_legacy_in_process_server_that_raises_a_cancellation_ends_the_server_which_reconnects() -> (
    None
):
    """The SDK runs all calls of a legacy server in one task group, which then counts as cancelled."""
    async with pool_with_a_good_server() as pool, pool.events() as events:
        await pool.connect("s", InProcessServer(breaking(), mode="legacy", restart=SOON))
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__break")
        assert (await next_error(events, ConnectionLost)).server_id == "s"
        assert words(await pool.call_tool("s__echo", {"text": "back"})) == "back"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_listing_that_raises_a_cancellation_is_a_failed_attempt(mode: Any) -> None:
    server = LowLevelServer[Any]("s", on_list_tools=cancelled_inside)
    spec = InProcessServer(server, mode=mode, restart=RestartPolicy(initial_delay=60), connect_timeout=5)
    async with pool_with_a_good_server() as pool:
        with pytest.raises(ConnectError):
            await pool.connect("s", spec)
        pool.add("s", spec)
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))


# For comparison: a requested cancellation


@on_each_wire
async def test_a_caller_cancelled_while_its_callback_runs_ends_cancelled(wire: str) -> None:
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
        assert ended.is_set() or not wire.startswith("modern")  # there it runs within the call
        assert WORDS["list_roots"] in await said(pool, TOOLS["list_roots"])
        assert pool.server("s").generation == 1
    await ended.wait()


async def test_a_cancellation_raised_by_user_code_is_distinguished_from_a_cancelled_scope() -> None:
    with pytest.raises(ForeignCancellation):
        await contained(cancelled_inside)
    with pytest.raises(ForeignCancellation):
        await contained_in_task(cancelled_inside)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await contained(anyio.sleep, 1)
    assert scope.cancelled_caught


async def test_a_log_sink_that_raises_a_cancellation_changes_nothing() -> None:
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
