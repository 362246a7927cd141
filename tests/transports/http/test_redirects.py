"""Everything that is sent to a server follows redirects within its origin, and nothing follows one to another origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx2
import pytest

from helpers.calls import words
from helpers.clock import virtual_backends
from helpers.memory import PLACE, STREAM, OverHttp, OverSse, Streamed, event, result_of
from mcp_pool import CallTimeout, HttpServer, HttpStatusError, MCPPool, RestartPolicy, SseServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from loguru import Message

ELSEWHERE = "http://elsewhere.test/mcp"


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def kind_of(message: dict[str, Any]) -> str:
    """The method of a message; "answer" for an answer."""
    return message.get("method", "answer")


@attrs.define(eq=False)
class Redirecting(httpx2.AsyncBaseTransport):
    """Answers a request with 307 if it has a place for it to go to, and has all others served; with sessions."""

    server: OverHttp | OverSse
    place: Callable[[httpx2.Request], str | None]
    """Returns where a request is redirected to; None: it is served."""
    served: list[str] = attrs.field(factory=list[str], init=False)
    """The methods, of HTTP and of JSON-RPC, of what is served."""
    hosts: set[str] = attrs.field(factory=set[str], init=False)
    """The hosts that anything was sent to."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        await request.aread()
        self.hosts.add(request.url.host)
        if (place := self.place(request)) is not None:
            return httpx2.Response(307, headers={"location": place})
        if request.method == "DELETE":
            self.served.append("DELETE")
            return httpx2.Response(200)
        response = await self.server.handle_async_request(request)
        if request.method == "POST":
            self.served.append(kind_of(self.server.seen[-1]))
            response.headers["mcp-session-id"] = "1"
        return response


def to_the_slash(request: httpx2.Request) -> str | None:
    """Redirect as Starlette does if a server is mounted at a path."""
    return None if request.url.path.endswith("/") else f"{request.url.path}/?{request.url.query.decode()}"


def asking() -> OverHttp:
    """A strict server, which asks during a call that says so, and never answers one that is slow."""
    answered = anyio.Event()

    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        arguments = message.get("params", {}).get("arguments", {})
        if kind_of(message) == "answer":
            answered.set()
        elif kind_of(message) == "tools/list" and not server.count("notifications/initialized"):
            error = {"code": -32002, "message": "not initialized"}
            return httpx2.Response(200, json={"jsonrpc": "2.0", "id": message["id"], "error": error})
        elif "ask" in arguments:
            return httpx2.Response(200, headers=STREAM, stream=Streamed(ask(message)))
        elif "slow" in arguments:
            await anyio.sleep_forever()
        return None

    async def ask(message: dict[str, Any]) -> AsyncGenerator[bytes]:
        yield event({"jsonrpc": "2.0", "id": "q1", "method": "ping"})
        await answered.wait()
        yield event(result_of(message))

    server = OverHttp(take)
    return server


def spec(server: Redirecting, kind: type[HttpServer | SseServer] = HttpServer, **fields: Any) -> HttpServer | SseServer:
    """The spec of the server."""
    lent = httpx2.AsyncClient(transport=server)
    if kind is HttpServer:
        fields["mode"] = "legacy"
    path = "mcp" if kind is HttpServer else "sse"
    return kind(f"{PLACE}/{path}", http_client=lent, **{"restart": RestartPolicy.never(), **fields})


async def test_all_that_is_sent_to_a_server_arrives_behind_a_redirect_within_its_origin() -> None:
    server = Redirecting(asking(), to_the_slash)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server))
        assert words(await pool.call_tool("s__work", {"ask": True}, timeout=5)) == "done"
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__work", {"slow": True}, timeout=5)
        await anyio.sleep(1)
    assert server.served[:3] == ["initialize", "notifications/initialized", "tools/list"]
    assert {"answer", "notifications/cancelled"} <= set(server.served)
    assert server.served[-1] == "DELETE"


async def test_over_sse_notifications_arrive_behind_a_redirect_within_the_origin() -> None:
    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        return httpx2.Response(202) if kind_of(message) == "tools/call" else None

    server = Redirecting(OverSse(take), to_the_slash)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server, SseServer))
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__work", timeout=5)
        await anyio.sleep(1)
    assert {"notifications/initialized", "notifications/cancelled"} <= set(server.served)


@pytest.mark.parametrize(("over", "kind"), [(OverHttp, HttpServer), (OverSse, SseServer)], ids=["http", "sse"])
async def test_a_notification_that_is_redirected_to_another_origin_is_not_sent_there_and_logged(
    over: type[OverHttp | OverSse], kind: type[HttpServer | SseServer], record_logs: list[Message]
) -> None:
    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        if kind_of(message) == "tools/call":
            await anyio.sleep_forever()
        return None

    def away(request: httpx2.Request) -> str | None:
        return ELSEWHERE if request.method == "DELETE" or b"notifications/cancelled" in request.content else None

    server = Redirecting(over(take), away)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server, kind, headers={"authorization": "Bearer secret"}))
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__work", timeout=5)
        await anyio.sleep(60)
    assert server.hosts == {"host.test"}
    logged = [record for record in record_logs if "it redirects to http://elsewhere.test, which is not" in record]
    assert any("'s' did not accept a notification" in record for record in logged)
    assert any("'s' was not told that its session has ended" in record for record in logged) is (kind is HttpServer)


async def test_the_ping_that_checks_a_session_follows_a_redirect_within_the_origin() -> None:
    sessions = 0

    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        nonlocal sessions
        sessions += kind_of(message) == "initialize"
        is_lost = sessions == 1 and kind_of(message) in {"tools/call", "ping"}
        return httpx2.Response({"ping": 404}.get(kind_of(message), 400)) if is_lost else None

    def place(request: httpx2.Request) -> str | None:
        return to_the_slash(request) if b'"ping"' in request.content else None

    server = Redirecting(OverHttp(take), place)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server, restart=RestartPolicy(initial_delay=0.1)))
        with pytest.raises(HttpStatusError):
            await pool.call_tool("s__work")
        assert words(await pool.call_tool("s__work")) == "done"
        assert pool.server("s").generation == 2


@pytest.mark.parametrize("is_followed", [True, False], ids=["within the origin", "to another origin"])
async def test_a_redirected_event_stream_is_reported_only_if_it_is_not_followed(
    is_followed: bool, record_logs: list[Message]
) -> None:
    async def take(_: dict[str, Any]) -> httpx2.Response | None:
        return None

    def place(request: httpx2.Request) -> str | None:
        if request.method != "GET":
            return None
        return to_the_slash(request) if is_followed else ELSEWHERE

    class Streaming(Redirecting):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if request.method == "GET" and place(request) is None:
                opened.set()
                return httpx2.Response(200, headers=STREAM, stream=Streamed(quiet()))
            return await super().handle_async_request(request)

    async def quiet() -> AsyncGenerator[bytes]:
        yield b": nothing\n\n"
        await anyio.sleep_forever()

    opened = anyio.Event()
    server = Streaming(OverHttp(take), place)
    async with MCPPool() as pool:
        await pool.connect("s", spec(server))
        with anyio.move_on_after(10):
            await opened.wait()
        assert pool.server("s").generation == 1
    assert opened.is_set() is is_followed
    assert server.hosts == {"host.test"}
    assert any("does not open a stream" in record for record in record_logs) is not is_followed
