"""The `endpoint` event over SSE, and other ends of the SDK's reader while the HTTP stream stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp.client.streamable_http import StreamableHTTPTransport

from helpers.calls import words
from helpers.clock import virtual_backends
from helpers.memory import PLACE, InMemory, OverHttp, OverSse
from mcp_pool import ConnectError, ConnectionLost, HttpServer, MCPPool, RestartPolicy, SseServer
from mcp_pool.transports.http.endpoint import Endpoint

if TYPE_CHECKING:
    from mcp_pool.transports.http.event_streams import Event

ENDPOINT = b"/messages?session_id=1"


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def spec(server: InMemory, **fields: Any) -> SseServer:
    """The spec of the server, which is reconnected after 0.1 s."""
    lent = httpx2.AsyncClient(transport=server)
    return SseServer(f"{PLACE}/sse", http_client=lent, restart=RestartPolicy(initial_delay=0.1), **fields)


def saying(*events: bytes) -> OverSse:
    """A server that sends these events on the stream that stands, during the first call."""
    left = list(events)

    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        while left and message.get("method") == "tools/call":
            server.say(left.pop(0))
        return None

    server = OverSse(take)
    return server


async def served(message: dict[str, Any]) -> httpx2.Response | None:
    """Behave well."""
    del message


@pytest.mark.parametrize(
    "again",
    [
        b"event: endpoint\ndata: " + ENDPOINT + b"\n\n",
        b"event:endpoint\r\ndata:" + ENDPOINT + b"\r\n\r\n",
        b"event: endpoint\ndata: http://HOST.test:80" + ENDPOINT + b"\n\n",
        b"event: endpoint\n\n",
        b"event: endpoint\ndata:\n\n",
        b"event: ping\ndata: something\n\n",
    ],
)
async def test_the_same_endpoint_again_is_nothing(again: bytes) -> None:
    server = saying(again, again)
    async with MCPPool(health=None) as pool:
        await pool.connect("s", spec(server))
        for _ in range(3):
            assert words(await pool.call_tool("s__work")) == "done"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (b"/messages?session_id=2", "changed its endpoint"),
        (b"http://elsewhere.test/messages", "named an endpoint at another origin, http://elsewhere.test, which is not"),
        (b"http://[", "named an endpoint that is not a URL"),
    ],
)
async def test_another_endpoint_ends_the_connection_and_the_next_one_is_made_at_once(other: bytes, what: str) -> None:
    server = saying(b"event: endpoint\ndata: " + other + b"\n\n")
    async with MCPPool(health=None) as pool:
        await pool.connect("s", spec(server))
        with pytest.raises(ConnectionLost) as caught:
            await pool.call_tool("s__work")
        assert caught.value.may_have_run
        assert what in str(caught.value)
        begun = anyio.current_time()
        assert words(await pool.call_tool("s__work")) == "done"
        assert anyio.current_time() - begun < 1
        assert pool.server("s").generation == 2


@pytest.mark.parametrize(
    ("endpoint", "what"),
    [
        (b"http://elsewhere.test/messages", "named an endpoint at another origin, http://elsewhere.test, which is not"),
        (b"https://host.test/messages", "named an endpoint at another origin, https://host.test, which is not"),
        (b"//elsewhere.test/messages", "named an endpoint at another origin, http://elsewhere.test, which is not"),
        (b"mailto:somebody", "named an endpoint at another origin"),
        (b"http://[", "named an endpoint that is not a URL"),
        (b"http://host.test:port/", "named an endpoint that is not a URL"),
        (b"/messages\x00", "named an endpoint that is not a URL"),
    ],
)
async def test_an_endpoint_that_cannot_be_used_ends_the_attempt_at_once_and_says_so(endpoint: bytes, what: str) -> None:
    server = OverSse(served, endpoint=endpoint)
    async with MCPPool() as pool:
        begun = anyio.current_time()
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", spec(server, headers={"authorization": "Bearer secret"}))
        assert anyio.current_time() - begun < 1
    assert type(caught.value) is ConnectError
    assert what in str(caught.value)
    assert server.seen == []


@pytest.mark.parametrize(
    "endpoint", [b"http://host.test/messages", b"http://HOST.test:80/messages#here", b"//user:word@host.test//messages"]
)
async def test_an_endpoint_at_the_same_origin_is_used_however_it_is_spelt(endpoint: bytes) -> None:
    async with MCPPool() as pool:
        await pool.connect("s", spec(OverSse(served, endpoint=endpoint)))
        assert words(await pool.call_tool("s__work")) == "done"


async def test_the_end_of_the_sdks_reader_over_sse_is_a_loss_whatever_ended_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unrevised(_: Endpoint, event: Event) -> bytes:
        return event.raw

    monkeypatch.setattr(Endpoint, "revise", unrevised)
    server = saying(b"event: endpoint\ndata: " + ENDPOINT + b"\n\n")
    async with MCPPool(health=None) as pool:
        await pool.connect("s", spec(server))
        with pytest.raises(ConnectionLost, match="can no longer be read: its stream of messages has ended"):
            await pool.call_tool("s__work")
        assert words(await pool.call_tool("s__work")) == "done"
        assert pool.server("s").generation == 2


async def test_the_end_of_the_sdks_transport_over_http_is_a_loss_whatever_ended_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> bool:
        monkeypatch.undo()
        raise RuntimeError

    lent = httpx2.AsyncClient(transport=OverHttp(served))
    server = HttpServer(f"{PLACE}/mcp", http_client=lent, mode="legacy", restart=RestartPolicy(initial_delay=0.1))
    async with MCPPool(health=None) as pool:
        await pool.connect("s", server)
        monkeypatch.setattr(StreamableHTTPTransport, "_consume_modern_cancellation", broken)
        with pytest.raises(ConnectionLost, match="can no longer be read: its stream of messages has ended"):
            await pool.call_tool("s__work")
        assert words(await pool.call_tool("s__work")) == "done"
        assert pool.server("s").generation == 2
