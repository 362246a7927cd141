"""The wait that a server asks for with `Retry-After`: how it is read, honoured and shown."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.clock import virtual_backends
from helpers.http import fault, raw_server
from helpers.http_calls import invented
from mcp_pool import ConnectError, HttpServer, HttpStatusError, MCPPool, RestartPolicy, SseServer
from mcp_pool.transports.http.responses import retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = "http://busy.invalid/mcp"
NOW = 784_126_800.0
"""Sun, 06 Nov 1994 13:00:00 GMT."""
SHORT = RestartPolicy(initial_delay=1, multiplier=1, max_delay=300, jitter=0)
VIRTUAL = pytest.mark.parametrize("anyio_backend", virtual_backends())


def response(status: int, value: str) -> httpx2.Response:
    return httpx2.Response(status, headers=[(b"Retry-After", value.encode("latin-1"))])


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not that of the dates, which are in UTC even if they do not say so."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST+5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sun, 06 Nov 1994 13:02:00 GMT", 120.0),
        ("Sunday, 06-Nov-94 13:02:00 GMT", 120.0),
        ("Sun Nov  6 13:02:00 1994", 120.0),
        ("Sun, 06 Nov 1994 12:00:00 GMT", 0.0),
        ("9" * 500, float("inf")),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\xb2", None),
        ("Sun, 06 Nov 99999999999999999999 08:49:37 GMT", None),
    ],
)
def test_seconds_and_dates_are_understood_and_anything_else_is_ignored(
    monkeypatch: pytest.MonkeyPatch, value: str, seconds: float | None
) -> None:
    monkeypatch.setattr("mcp_pool.transports.http.responses.time", lambda: NOW)
    assert retry_after(response(503, value)) == seconds


@pytest.mark.parametrize("status", [200, 401, 404, 500, 502])
def test_it_is_ignored_with_other_statuses_than_429_and_503(status: int) -> None:
    assert retry_after(response(status, "120")) is None


def rejecting(
    status: int, value: str, body: Callable[[Any], Any] = lambda _id: "busy"
) -> tuple[httpx2.AsyncClient, list[float]]:
    """A client whose server rejects every request, and the times of the requests."""
    times = list[float]()

    def handle(request: httpx2.Request) -> httpx2.Response:
        times.append(anyio.current_time())
        request_id = json.loads(request.content)["id"] if request.content else None
        return httpx2.Response(status, headers={"Retry-After": value}, json=body(request_id))

    return httpx2.AsyncClient(transport=httpx2.MockTransport(handle)), times


async def waits(spec: Any, times: list[float], *, during: float) -> list[float]:
    """The waits between the attempts to connect to a server."""
    async with MCPPool() as pool:
        pool.add("s", spec)
        await anyio.sleep(during)
    return [later - earlier for earlier, later in pairwise(times)]


@VIRTUAL
@pytest.mark.parametrize("kind", [HttpServer, SseServer])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("value", "wait"), [("120", 120), ("1000", 300), ("0", 1), ("soon", 1)])
async def test_the_next_attempt_waits_for_as_long_as_the_server_asked(
    kind: type[Any], status: int, value: str, wait: float
) -> None:
    client, times = rejecting(status, value)
    async with client:
        spec = kind(URL, http_client=client, restart=SHORT)
        assert await waits(spec, times, during=2.5 * wait) == pytest.approx([wait, wait])


@VIRTUAL
async def test_it_counts_more_than_a_json_rpc_error_in_the_same_response() -> None:
    def error(request_id: object) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": request_id, "error": {"code": -32000, "message": "too many requests"}}

    client, times = rejecting(429, "120", error)
    async with client:
        spec = HttpServer(URL, http_client=client, restart=SHORT)
        assert await waits(spec, times, during=250) == pytest.approx([120, 120])


@pytest.mark.parametrize(
    ("kind", "on"), [(HttpServer, "server/discover"), (SseServer, "GET"), (SseServer, "initialize")]
)
async def test_the_error_of_an_attempt_says_how_long_the_server_asked_to_wait(kind: type[Any], on: str) -> None:
    async with raw_server(faults=[fault("status", [503, "120"], on=on)]) as server, MCPPool() as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", kind(server.url if kind is HttpServer else server.sse_url))
    assert "with HTTP status 503 (Retry-After: 120 s, " in caught.value.reason
    assert isinstance(caught.value.cause, HttpStatusError)
    assert caught.value.cause.retry_after == 120


async def test_the_error_of_a_call_says_how_long_the_server_asked_to_wait() -> None:
    client = invented(lambda _message, _request: response(429, "7"))
    async with client, MCPPool({"s": HttpServer(URL, http_client=client)}) as pool:
        with pytest.raises(HttpStatusError, match=r"HTTP status 429 \(Retry-After: 7 s\)") as caught:
            await pool.call_tool("s__echo")
    assert caught.value.retry_after == 7
