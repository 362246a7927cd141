"""Failed requests over HTTP: the call fails with the reason, and everything else continues."""

from __future__ import annotations

import json
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx2
import pytest
from mcp import MCPError

from helpers.calls import PROTOCOLS, Outcome, words
from helpers.http import arrival, arrived, fault, ran, raw_server
from helpers.http_calls import BOUND, TOKEN, behind_url, hides_its_secrets, in_flight, invented
from mcp_pool import CallTimeout, ConnectionLost, HttpServer, HttpStatusError, InvalidResponse, MCPPool
from servers.tcp_proxy import Deed, tcp_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LIMIT = 50_000
OVER = LIMIT + 1000
DEEDS: tuple[Deed, ...] = ("reset", "cut", "half_close")
JSON, STREAM = (), ("--stream",)


@attrs.frozen
class Way:
    """A failure, and how it is reported."""

    do: str
    value: Any = None
    error: type[Exception] = InvalidResponse
    cause: type | None = None
    options: tuple[str, ...] = JSON


WAYS = [
    Way("silent", error=CallTimeout),
    Way("close", error=ConnectionLost, cause=httpx2.RemoteProtocolError),
    Way("reset", error=ConnectionLost, cause=httpx2.ReadError),
    Way("not_http", error=ConnectionLost, cause=httpx2.RemoteProtocolError),
    *(Way("status", status, error=HttpStatusError) for status in (400, 401, 403, 404, 500, 503)),
    Way("redirect", error=HttpStatusError),
    Way("accepted"),
    Way("broken_json"),
    Way("not_rpc"),
    Way("content_type"),
    Way("content_encoding", cause=httpx2.DecodingError),
    Way("half_body", error=ConnectionLost, cause=httpx2.RemoteProtocolError),
    Way("half_body", "reset", error=ConnectionLost, cause=httpx2.ReadError),
    Way("half_body", "stall", error=CallTimeout),
    Way("endless_body"),
    Way("big_body", OVER),
    Way("half_stream", "cut", error=ConnectionLost, cause=httpx2.RemoteProtocolError),
    Way("half_stream", "reset", error=ConnectionLost, cause=httpx2.ReadError),
    Way("half_stream", "end", error=ConnectionLost),
    Way("half_stream", "stall", error=CallTimeout),
    Way("endless_event"),
    Way("big_event", OVER),
    Way("broken_json", options=STREAM),
    Way("not_rpc", options=STREAM),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("options", [JSON, STREAM], ids=["json", "stream"])
async def test_a_request_that_fails_harms_only_itself(
    protocol: tuple[str, ...], options: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, ways = tmp_path / "ledger", [way for way in WAYS if way.options == options]
    if not protocol:  # with a session, 404 means that it is lost: see `test_rejections.py`
        ways = [way for way in ways if way.value != 404]
    async with raw_server(*protocol, *options, ledger=ledger) as server:
        other = HttpServer(f"{server.origin}/other/mcp")
        spec = behind_url(server, max_message_size=LIMIT)
        async with MCPPool({"s": spec, "other": other}) as pool, in_flight(pool, ledger):
            for way in ways:
                call = Outcome()
                await server.misbehave(fault(way.do, way.value, on="tools/call:echo", times=1))
                with anyio.fail_after(BOUND):
                    async with anyio.create_task_group() as group:
                        timeout = 1 if way.error is CallTimeout else BOUND
                        group.start_soon(call.of, partial(pool.call_tool, "s__echo", timeout=timeout))
                        await arrival(ledger, tool="echo", count=1 + 3 * ways.index(way))
                        assert words(await pool.call_tool("other__echo", {"text": "other"})) == "other"
                    assert words(await pool.call_tool("s__echo", {"text": "good"})) == "good"
                error: Any = call.error
                assert type(error) is way.error, (way, error)
                assert isinstance(error.__cause__, way.cause or type(None)), (way, error)
                assert (error.server_id, error.generation, error.phase) == ("s", 1, "call")
                assert getattr(error, "status", 0) == {"status": way.value, "redirect": 307}.get(way.do, 0)
                assert getattr(error, "may_have_run", True), way
                assert hides_its_secrets(error), way
                assert ("max_message_size" in error.reason) == error.advice.startswith("Raise max_message_size"), way
                assert {handle.generation for handle in pool.servers.values()} == {1}, way
        assert len(arrived(ledger, tool="echo")) == 3 * len(ways)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_calls_on_other_connections_continue_while_one_connection_breaks(
    protocol: tuple[str, ...], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(*protocol, ledger=ledger) as server, tcp_proxy(server.port) as proxy:
        spec = HttpServer(f"http://127.0.0.1:{proxy.port}/mcp")
        async with MCPPool({"s": spec}) as pool, in_flight(pool, ledger):
            for deed, forwarded in product(DEEDS, (True, False)):
                proxy.when(b'"sixth"', deed, forwarded=forwarded)
                with anyio.fail_after(BOUND), pytest.raises(ConnectionLost) as caught:
                    await pool.call_tool("s__echo", {"text": "sixth"})
                assert caught.value.may_have_run
                assert isinstance(caught.value.__cause__, httpx2.TransportError)
                assert words(await pool.call_tool("s__echo", {"text": "seventh"})) == "seventh"
                assert pool.server("s").generation == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("again", "how"), [(0, ()), (1, ("half_stream",)), (1, ("redirect", "/mcp"))])
async def test_an_event_stream_with_ids_is_resumed_and_its_call_succeeds(
    protocol: tuple[str, ...], again: int, how: tuple[str, ...], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(*protocol, ledger=ledger) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        for number, manner in enumerate(("cut ids", "reset ids", "end ids"), 1):
            disturbed = [fault(*how, on="resume", times=1)] if how else []
            await server.misbehave(fault("half_stream", manner, on="tools/call:echo"), *disturbed)
            with anyio.fail_after(BOUND):
                assert words(await pool.call_tool("s__echo", {"text": manner})) == manner
            assert pool.server("s").generation == 1
            assert ran(ledger, "echo") == number
            assert len([line for line in arrived(ledger, "GET") if line["resume"]]) == number * (1 + again)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_call_whose_stream_cannot_be_resumed_is_lost_and_may_have_run(
    protocol: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, refusals = tmp_path / "ledger", [("status", 500), ("status", 404), ("reset", None), ("content_type", None)]
    async with raw_server(*protocol, ledger=ledger) as server, MCPPool({"s": behind_url(server)}) as pool:
        for do, value in refusals:
            await server.misbehave(fault("half_stream", "cut ids", on="tools/call:echo"), fault(do, value, on="resume"))
            with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match="event stream") as caught:
                await pool.call_tool("s__echo", {"text": "half"})
            assert caught.value.may_have_run
            assert hides_its_secrets(caught.value)
            assert pool.server("s").generation == 1
        assert ran(ledger, "echo") == len(refusals)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_error_from_the_server_is_passed_on(protocol: tuple[str, ...]) -> None:
    async with raw_server(*protocol) as server, MCPPool({"s": HttpServer(server.url)}) as pool:
        for status in (200, 400, 403, 500):
            await server.misbehave(fault("error", [status, -32000, "the server's own words"], on="tools/call:echo"))
            with pytest.raises(MCPError, match="the server's own words") as caught:
                await pool.call_tool("s__echo")
            assert caught.value.error.code == -32000
        assert pool.server("s").generation == 1


class Moody(httpx2.Auth):
    """Raises for requests with the word `bad` in them, before they are sent or after the response."""

    def __init__(self, error: Exception, *, after: bool = False) -> None:
        self.error = error
        self.after = after
        self.met = 0

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncIterator[httpx2.Request]:
        is_bad = b'"bad"' in request.content
        self.met += is_bad
        if is_bad and not self.after:
            raise self.error
        request.headers["Authorization"] = f"Bearer {TOKEN}"
        yield request
        if is_bad:
            raise self.error


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("after", "grouped"), [(False, False), (False, True), (True, False)])
async def test_an_authorization_flow_that_raises_fails_one_call_that_is_not_sent_again(
    protocol: tuple[str, ...], after: bool, grouped: bool, tmp_path: Path
) -> None:
    ledger, failure = tmp_path / "ledger", LookupError("no token in the drawer")
    auth = Moody(ExceptionGroup("several", [failure]) if grouped else failure, after=after)
    async with (
        raw_server(*protocol, ledger=ledger) as server,
        MCPPool({"s": HttpServer(server.url, auth=auth)}) as pool,
    ):
        async with in_flight(pool, ledger):
            with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match="LookupError") as caught:
                await pool.call_tool("s__echo", {"text": "bad"})
            assert caught.value.may_have_run == after
            assert caught.value.__cause__ is failure
            assert auth.met == 1
        assert words(await pool.call_tool("s__echo", {"text": "good"})) == "good"
        assert pool.server("s").generation == 1
        assert ran(ledger, "echo") == 1 + after


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("moment", ["request", "response"])
async def test_an_event_hook_that_raises_fails_one_call_that_is_not_sent_again(
    protocol: tuple[str, ...], moment: str, tmp_path: Path
) -> None:
    ledger, failure, met = tmp_path / "ledger", httpx2.ConnectError("so says the hook"), list[int]()

    async def hook(event: Any) -> None:
        request = event if moment == "request" else event.request
        if b'"bad"' in request.content:
            met.append(1)
            raise failure

    async with (
        raw_server(*protocol, ledger=ledger) as server,
        httpx2.AsyncClient(event_hooks={moment: [hook]}, verify=False) as lent,
    ):
        async with MCPPool({"s": HttpServer(server.url, http_client=lent)}) as pool:
            async with in_flight(pool, ledger):
                with anyio.fail_after(BOUND), pytest.raises(ConnectionLost, match="ConnectError") as caught:
                    await pool.call_tool("s__echo", {"text": "bad"})
                assert repr(caught.value.__cause__) == repr(failure)
                assert len(met) == 1
            assert words(await pool.call_tool("s__echo", {"text": "good"})) == "good"
            assert pool.server("s").generation == 1
        assert not lent.is_closed


class Cut(httpx2.AsyncByteStream):
    """A body that is cut off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise httpx2.ReadError("and no end")


def result(message: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The correct answer, with changes."""
    content = {"resultType": "complete", "content": [{"type": "text", "text": "right"}]}
    return {"jsonrpc": "2.0", "id": message["id"], "result": content} | changes


def moved(message: dict[str, Any], request: httpx2.Request) -> httpx2.Response:
    """A redirect within the origin, with a body that is cut off."""
    if request.url.path == "/new":
        return httpx2.Response(200, json=result(message))
    return httpx2.Response(308, headers={"location": "/new"}, stream=Cut())


def events(*data: str) -> httpx2.Response:
    """An event stream that arrives in one piece."""
    text = "".join(f": a comment\r\ndata: {line}\r\n\r\n" for line in data)
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)


ODD = {
    "an answer with nonsense behind it": (lambda m, _: events(json.dumps(result(m)), "nonsense"), None),
    "an answer to another request": (lambda m, _: httpx2.Response(200, json=result(m, id=99)), InvalidResponse),
    "a number as a string": (lambda m, _: httpx2.Response(200, json=result(m, id=str(m["id"]))), None),
    "several answers": (lambda m, _: httpx2.Response(200, json=[result(m)]), InvalidResponse),
    "a question": (
        lambda m, _: httpx2.Response(200, json={"jsonrpc": "2.0", "id": m["id"], "method": "x"}),
        InvalidResponse,
    ),
    "nothing": (lambda _m, _: httpx2.Response(204), InvalidResponse),
    "a stream with status 202": (
        lambda _m, _: httpx2.Response(202, headers={"content-type": "text/event-stream"}),
        InvalidResponse,
    ),
    "an outage with half a body": (lambda _m, _: httpx2.Response(503, stream=Cut()), HttpStatusError),
    "a redirect with half a body": (moved, None),
    "a redirect to itself": (lambda _m, r: httpx2.Response(307, headers={"location": str(r.url)}), HttpStatusError),
    "an event that is too long, at once": (lambda _m, _: events("x" * OVER), InvalidResponse),
    "an error that names no request": (
        lambda _m, _: httpx2.Response(200, json={"jsonrpc": "2.0", "id": None, "error": {"code": -5, "message": "no"}}),
        MCPError,
    ),
    "an error without an id": (
        lambda _m, _: httpx2.Response(200, json={"jsonrpc": "2.0", "error": {"code": -5, "message": "no"}}),
        MCPError,
    ),
}


SPOILT = {
    "half a body": (lambda _: Cut(), ConnectionLost),
    "half a stream": (lambda _: Cut(), ConnectionLost),
    "too much": (lambda m: httpx2.ByteStream(json.dumps(result(m)).rjust(OVER).encode()), InvalidResponse),
    "a page": (lambda _: httpx2.ByteStream(b"<html>"), InvalidResponse),
}


@pytest.mark.parametrize("kind", SPOILT)
async def test_a_call_with_a_corrupted_answer_may_have_run_although_a_borrowed_client_does_not_trace_it(
    kind: str,
) -> None:
    body: Callable[[dict[str, Any]], httpx2.AsyncByteStream]
    body, expected = SPOILT[kind]
    content_type = {"half a stream": "text/event-stream", "a page": "text/html"}.get(kind, "application/json")

    def answer(message: dict[str, Any], _request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, stream=body(message))

    async with invented(answer) as lent:
        spec = HttpServer("http://nowhere.invalid/mcp", http_client=lent, max_message_size=LIMIT)
        async with MCPPool({"s": spec}) as pool:
            with anyio.fail_after(BOUND), pytest.raises(expected) as caught:
                await pool.call_tool("s__echo")
            error: Any = caught.value
            assert error.may_have_run
            assert "may have run" in str(error)
            assert "could not be asked" not in str(error)


@pytest.mark.parametrize("kind", ODD)
async def test_an_unexpected_response_ends_its_call_at_once(kind: str) -> None:
    answer: Callable[[dict[str, Any], httpx2.Request], httpx2.Response]
    answer, error = ODD[kind]
    async with invented(answer) as lent:
        spec = HttpServer("http://nowhere.invalid/old", http_client=lent, max_message_size=LIMIT)
        async with MCPPool({"s": spec}) as pool:
            call = Outcome()
            with anyio.fail_after(BOUND):
                await call.of(pool.call_tool, "s__echo")
            assert type(call.error) is (type(None) if error is None else error)
            assert error is not None or words(call.value) == "right"
            assert pool.server("s").generation == 1
