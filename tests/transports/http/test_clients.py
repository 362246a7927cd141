"""The HTTP client of each server: what it shares, what it never shares, and borrowed clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.calls import Outcome, words
from helpers.common import eventually
from helpers.http import arrival, arrived, fault, ran, raw_server
from mcp_pool import ConnectionLost, HttpServer, MCPPool, RestartPolicy, SseServer
from mcp_pool.transports.channel import Channel
from mcp_pool.transports.http import client as http_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


MANY = 150
KINDS = [pytest.param(HttpServer, "mcp", id="http"), pytest.param(SseServer, "sse", id="sse")]


class Signed(httpx2.Auth):
    """Signs each request."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.headers["Authorization"] = f"Signed {self.name}"
        yield request


async def echo(pool: MCPPool, server_id: str, text: str = "hello") -> str:
    """Call the tool that every server has."""
    return words(await pool.call_tool(f"{server_id}__echo", {"text": text}))


async def test_servers_of_one_origin_never_mix(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with (
        raw_server("--cookies", ledger=ledger) as server,
        httpx2.AsyncClient(headers={"Authorization": "lent 1"}, verify=False) as lent,
        httpx2.AsyncClient(auth=Signed("lent 2"), verify=False) as other,
    ):
        place = server.origin
        configs: dict[str, Any] = {
            "bare": HttpServer(f"{place}/bare/mcp"),
            "key": HttpServer(f"{place}/key/mcp", headers={"Authorization": "key"}),
            "sign": HttpServer(f"{place}/sign/mcp", auth=Signed("sign")),
            "lent": HttpServer(f"{place}/lent/mcp", http_client=lent),
            "other": HttpServer(f"{place}/other/mcp", http_client=other, headers={"X-Key": "other"}),
            "old": SseServer(f"{place}/old/sse", headers={"Authorization": "old"}),
        }
        async with MCPPool(configs) as pool, anyio.create_task_group() as group:
            await pool.wait_ready()
            for server_id in [*configs] * 5:
                group.start_soon(echo, pool, server_id)
        bearers = {
            "bare": None,
            "key": "key",
            "sign": "Signed sign",
            "lent": "lent 1",
            "other": "Signed lent 2",
            "old": "old",
        }
        connections: dict[int, str] = {}
        sessions: dict[str, str] = {}
        for line in arrived(ledger):
            name = line["path"].split("/")[1]
            assert line["auth"] == bearers[name]
            assert line["headers"].get("x-key") == ("other" if name == "other" else None)
            assert line["cookies"] is None or line["cookies"].startswith(f"path=/{name}/")
            assert connections.setdefault(line["connection"], name) == name
            assert line["session"] is None or sessions.setdefault(line["session"], name) == name
        cookies = {line["path"].split("/")[1] for line in arrived(ledger) if line["cookies"]}
        assert cookies == configs.keys()


class Counting(httpx2.AsyncHTTPTransport):
    """A user's transport that does not support trace events."""

    def __init__(self) -> None:
        super().__init__()
        self.handled = 0
        self.loses: type[httpx2.TransportError] | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.handled += 1
        loses = self.loses if b"tools/call" in await request.aread() else None
        if loses is httpx2.ConnectError:
            raise loses("nobody there")
        request.extensions = {name: value for name, value in request.extensions.items() if name != "trace"}
        response = await super().handle_async_request(request)
        if loses is not None:
            await response.aclose()
            raise loses("broke off")
        return response


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_borrowed_client_does_the_work_and_is_never_closed(kind: type[Any], place: str, tmp_path: Path) -> None:
    ledger, transport, seen = tmp_path / "ledger", Counting(), list[str]()

    async def on_request(request: httpx2.Request) -> None:
        seen.append(request.method)

    async def on_response(response: httpx2.Response) -> None:
        seen.append(str(response.status_code))

    lent = httpx2.AsyncClient(
        headers={"X-Base": "base", "X-Key": "base"},
        auth=Signed("base"),
        transport=transport,
        event_hooks={"request": [on_request], "response": [on_response]},
    )
    async with raw_server(ledger=ledger) as server, lent:
        url = f"{server.origin}/{place}"
        for turn, auth in enumerate([None, Signed("own")]):
            async with MCPPool() as pool:
                await pool.connect("s", kind(url, http_client=lent, headers={"X-Key": "own"}, auth=auth))
                assert await echo(pool, "s") == "hello"
            assert not lent.is_closed
            requests = arrived(ledger)
            assert transport.handled == len(requests)
            assert seen.count("POST") == len(arrived(ledger, "POST"))
            assert sum(map(str.isdecimal, seen)) == len(requests)
            new = [line for line in requests if line["auth"] == ("Signed own" if turn else "Signed base")]
            assert len(new) == len(requests) - (len(new) if turn else 0)
            assert {line["headers"]["x-base"] for line in requests} == {"base"}
            assert {line["headers"]["x-key"] for line in requests} == {"own"}
        assert (await lent.get(server.url)).status_code == 400  # it still works


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_request_that_an_untraced_transport_may_have_sent_is_not_sent_again(
    kind: type[Any], place: str, tmp_path: Path
) -> None:
    ledger, transport = tmp_path / "ledger", Counting()
    tool = "silent" if kind is SseServer else "echo"  # over streamable HTTP, the response would come before the error
    async with raw_server(ledger=ledger) as server, httpx2.AsyncClient(transport=transport) as lent, MCPPool() as pool:
        await pool.connect("s", kind(f"{server.origin}/{place}", http_client=lent, restart=RestartPolicy.never()))
        transport.loses = httpx2.ReadError
        with pytest.raises(ConnectionLost) as caught:
            await pool.call_tool(f"s__{tool}")
        assert caught.value.may_have_run
        assert isinstance(caught.value.cause, httpx2.ReadError)
        await eventually(lambda: ran(ledger, tool))  # over SSE, the server runs the call after it has accepted the POST
    assert ran(ledger, tool) == 1


async def test_a_request_cancelled_in_a_borrowed_client_may_have_been_sent() -> None:
    told, handled = list[str](), anyio.Event()

    async def trace(event: str, _info: object) -> None:
        told.append(event)

    async def handle(_request: httpx2.Request) -> httpx2.Response:
        handled.set()
        await anyio.sleep_forever()
        raise AssertionError

    class Through:
        channel = Channel(tracked=True)

        async def send(self, request: httpx2.Request, forward: http_client.Forward) -> httpx2.Response:
            request.extensions = {**request.extensions, "trace": trace}
            return await forward(request)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(handle)) as lent:
        url = "http://host.test/"
        async with (
            http_client.ServerHttpClient(url, Through(), headers=None, auth=None, borrowed_client=lent) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(client.get, url)
            await handled.wait()
            group.cancel_scope.cancel()
    assert told == ["borrowed_client.send_request_headers.started"]


async def test_a_request_for_which_a_borrowed_client_could_not_connect_has_not_run(tmp_path: Path) -> None:
    ledger, transport = tmp_path / "ledger", Counting()
    policy = RestartPolicy(initial_delay=0.01)
    async with raw_server(ledger=ledger) as server, httpx2.AsyncClient(transport=transport) as lent, MCPPool() as pool:
        await pool.connect("s", SseServer(server.sse_url, http_client=lent, restart=policy))
        transport.loses = httpx2.ConnectError
        call = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(call.of, echo, pool, "s")
            while pool.server("s").generation < 2:
                await anyio.lowlevel.checkpoint()
            transport.loses = None
        assert call.value == "hello"
    assert ran(ledger, "echo") == 1


async def test_a_borrowed_client_that_is_closed_fails_calls_and_nothing_else() -> None:
    async with raw_server("--modern") as server, MCPPool() as pool:
        lent = httpx2.AsyncClient(verify=False)
        await pool.connect("s", HttpServer(server.url, http_client=lent))
        await pool.connect("t", HttpServer(server.url))
        await lent.aclose()
        with pytest.raises(ConnectionLost, match="RuntimeError"):
            await echo(pool, "s")
        assert await echo(pool, "t") == "hello"


async def test_idle_connections_are_reused_and_closed_before_the_server_closes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http_client.IDLE_EXPIRY < 5  # the keep-alive of uvicorn and of Node
    async with raw_server("--modern", ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        for server_id, expiry in (("kept", http_client.IDLE_EXPIRY), ("dropped", 0.0)):
            monkeypatch.setattr(http_client, "IDLE_EXPIRY", expiry)
            await pool.connect(server_id, HttpServer(f"{server.origin}/{server_id}/mcp"))
            for _ in range(5):
                await echo(pool, server_id)
        used = [(line["path"], line["connection"]) for line in arrived(tmp_path / "ledger")]
        assert len({number for path, number in used if path == "/kept/mcp"}) == 1
        assert len({number for path, number in used if path == "/dropped/mcp"}) == 7


@pytest.mark.parametrize(
    ("kind", "place", "options"),
    [
        pytest.param(HttpServer, "mcp", ("--modern",), id="modern"),
        pytest.param(HttpServer, "mcp", ("--stream",), id="legacy, on streams"),
        pytest.param(SseServer, "sse", (), id="sse"),
    ],
)
async def test_many_calls_and_streams_do_not_starve_each_other(
    kind: type[Any], place: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    async with raw_server(*options, ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        await pool.connect("s", kind(f"{server.origin}/{place}"))
        outcomes = [Outcome() for _ in range(MANY)]
        async with anyio.create_task_group() as group:
            for number, outcome in enumerate(outcomes):
                group.start_soon(outcome.of, pool.call_tool, "s__hold", {"key": str(number)})
            await arrival(tmp_path / "ledger", tool="hold", count=MANY)
            assert (await server.order())["pending"].count("tools/call") == MANY
            assert await echo(pool, "s") == "hello"
            for number in range(MANY):
                await pool.call_tool("s__release", {"key": str(number)})
        assert [words(outcome.value) for outcome in outcomes] == [str(number) for number in range(MANY)]


async def test_a_slow_server_does_not_keep_others_of_its_origin_waiting(tmp_path: Path) -> None:
    slow = fault("silent", on="tools/call:silent")
    async with raw_server("--modern", faults=[slow], ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url))
        await pool.connect("t", HttpServer(server.url))
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(Outcome().of, pool.call_tool, "s__silent")
            await arrival(tmp_path / "ledger", tool="silent", count=30)
            for server_id in "st":
                assert await echo(pool, server_id) == "hello"
            group.cancel_scope.cancel()
