"""The HTTP test servers and the proxies work as the tests of the pool expect."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client

from helpers.calls import words
from helpers.common import eventually
from helpers.http import arrival, arrived, fault, given_up, ran, raw_server, refused_port, sdk_server, tls
from servers.forward_proxy import forward_proxy
from servers.tcp_proxy import Plan, tcp_proxy

if TYPE_CHECKING:
    from pathlib import Path


VERSION = "2026-07-28"
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": VERSION,
    "Mcp-Method": "tools/call",
}
SERVERS = [pytest.param(raw_server, id="raw"), pytest.param(sdk_server, id="sdk")]


def call_of(client: httpx2.AsyncClient, url: str, tool: str, **arguments: Any) -> httpx2.Request:
    """A tool call in the modern protocol, which needs no handshake."""
    prefix = "io.modelcontextprotocol"
    meta = {f"{prefix}/protocolVersion": VERSION, f"{prefix}/clientCapabilities": {}}
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    message["params"] = {"name": tool, "arguments": arguments, "_meta": meta}
    return client.build_request("POST", url, json=message, headers={**HEADERS, "Mcp-Name": tool})


async def call(client: httpx2.AsyncClient, url: str, tool: str = "echo", **arguments: Any) -> httpx2.Response:
    """Call a tool."""
    return await client.send(call_of(client, url, tool, **arguments))


async def post(url: str, text: str, *, verify: Any = False, **options: Any) -> httpx2.Response:
    """Call `echo` on a new connection."""
    async with httpx2.AsyncClient(verify=verify, **options) as client:
        return await call(client, url, text=text)


def text_of(response: httpx2.Response) -> str:
    """The text that the tool answered."""
    return response.json()["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("start", "options", "version"),
    [
        pytest.param(raw_server, ("--modern",), "2026-07-28", id="raw, modern"),
        pytest.param(raw_server, (), "2025-11-25", id="raw, legacy"),
        pytest.param(sdk_server, (), "2026-07-28", id="sdk, modern"),
        pytest.param(sdk_server, ("--legacy-only", "--json"), "2025-11-25", id="sdk, legacy"),
    ],
)
async def test_a_server_speaks_its_protocol_and_records_what_arrives(
    start: Any, options: tuple[str, ...], version: str, tmp_path: Path
) -> None:
    async with start(*options, ledger=tmp_path / "ledger") as server:
        async with Client(server.url) as client:
            assert client.protocol_version == version
            assert words(await client.call_tool("echo", {"text": "hello"})) == "hello"
        assert len(arrived(tmp_path / "ledger", tool="echo")) == 1
        sessions = {line["session"] for line in arrived(tmp_path / "ledger", "DELETE")}
        assert len(sessions) == (1 if version == "2025-11-25" else 0)
        assert None not in sessions


@pytest.mark.parametrize("start", SERVERS)
async def test_a_server_speaks_the_old_transport(start: Any) -> None:
    async with start() as server, Client(sse_client(server.sse_url), mode="legacy") as client:
        assert words(await client.call_tool("echo", {"text": "hello"})) == "hello"


@pytest.mark.parametrize(
    ("start", "options"), [pytest.param(raw_server, ("--modern",), id="raw"), pytest.param(sdk_server, (), id="sdk")]
)
async def test_a_server_that_was_killed_comes_back_on_its_port(start: Any, options: tuple[str, ...]) -> None:
    async with start(*options) as server:
        port = server.port
        await server.kill()
        with pytest.raises(httpx2.ConnectError):
            await post(server.url, "nobody")
        await server.start()
        assert server.port == port
        assert text_of(await post(server.url, "again")) == "again"


@pytest.mark.parametrize("start", SERVERS)
async def test_a_server_speaks_tls_and_answers_401_without_its_token(start: Any, tmp_path: Path) -> None:
    files = tls(tmp_path)
    context = ssl.create_default_context(cafile=files.ca)
    async with start("--token", "secret", tls=files) as server:
        with pytest.raises(httpx2.ConnectError):
            await post(server.url, "distrust", verify=True)
        assert (await post(server.url, "unknown", verify=context)).status_code == 401
        known = {"Authorization": "Bearer secret"}
        assert (await post(server.url, "known", verify=context, headers=known)).status_code != 401


async def test_a_rule_applies_to_the_requests_that_it_names() -> None:
    rule = fault("status", 503, on="tools/call:echo", first=2, times=2, every=2)
    async with raw_server("--modern", faults=[rule]) as server:
        statuses = [(await post(server.url, "hello")).status_code for _ in range(7)]
        assert statuses == [200, 503, 200, 503, 200, 200, 200]
        await server.misbehave(fault("status", 500, on="handshake"))
        assert (await post(server.url, "hello")).status_code == 200


@pytest.mark.parametrize(
    ("do", "value"), [("reset", None), ("half_body", None), ("half_stream", "cut"), ("half_stream", "reset")]
)
async def test_a_connection_that_breaks_during_a_call_leaves_the_others_alone(
    do: str, value: Any, tmp_path: Path
) -> None:
    async with raw_server("--modern", ledger=tmp_path / "ledger") as server:
        await server.misbehave(fault(do, value, on="tools/call:echo", times=1, after=do == "reset"))
        answers: list[str] = []

        async def hold(key: str) -> None:
            async with httpx2.AsyncClient(verify=False) as client:
                answers.append(text_of(await call(client, server.url, "hold", key=key)))

        async with anyio.create_task_group() as group, httpx2.AsyncClient(verify=False) as client:
            for key in "12345":
                group.start_soon(hold, key)
            await arrival(tmp_path / "ledger", tool="hold", count=5)
            with pytest.raises(httpx2.TransportError):
                await post(server.url, "sixth")
            for key in "12345":
                await call(client, server.url, "release", key=key)
        assert sorted(answers) == ["1", "2", "3", "4", "5"]
        assert ran(tmp_path / "ledger", "echo") == 1


async def test_a_cut_event_stream_with_ids_is_resumed_and_nothing_runs_twice(tmp_path: Path) -> None:
    async with raw_server("--modern", ledger=tmp_path / "ledger") as server, httpx2.AsyncClient(verify=False) as client:
        await server.misbehave(
            fault("half_stream", "cut ids", on="tools/call:echo"), fault("half_stream", on="resume", times=1)
        )

        async def read(request: httpx2.Request) -> bytes:
            pieces: list[bytes] = []
            response = await client.send(request, stream=True)
            with suppress(httpx2.RemoteProtocolError):
                async for piece in response.aiter_bytes():
                    pieces.append(piece)
            await response.aclose()
            return b"".join(pieces)

        beginning = await read(call_of(client, server.url, "echo", text="hello"))
        (event_id,) = re.findall(rb"id: (\S+)", beginning)
        again = client.build_request("GET", server.url, headers={**HEADERS, "Last-Event-ID": event_id.decode()})
        assert b"hello" not in beginning + await read(again)
        assert b"hello" in await read(again)
        assert ran(tmp_path / "ledger", "echo") == 1
        assert [line["resume"] for line in arrived(tmp_path / "ledger", "GET")] == [event_id.decode()] * 2


async def test_a_lost_session_fails_every_request_and_another_can_be_opened(tmp_path: Path) -> None:
    async with raw_server("--unknown-session", "400", ledger=tmp_path / "ledger") as server:
        async with Client(server.url) as client:
            await server.order(forget=True)
            for _ in range(2):
                with pytest.raises(Exception, match="No valid session"):
                    await client.call_tool("echo", {"text": "hello"})
        async with Client(server.url) as client:
            await client.call_tool("echo", {"text": "hello"})
        assert ran(tmp_path / "ledger", "echo") == 1


async def test_a_client_that_does_not_wait_for_its_answer_is_detected(tmp_path: Path) -> None:
    async with raw_server("--modern", "--never-answer", ledger=tmp_path / "ledger") as server:
        with pytest.raises(httpx2.ReadTimeout):
            await post(server.url, "hello", timeout=httpx2.Timeout(60, read=0.2))
        await eventually(lambda: given_up(tmp_path / "ledger"))
        assert given_up(tmp_path / "ledger") == [{"method": "tools/call", "id": 1, "tool": "echo"}]


async def test_a_server_refuses_connections_until_it_listens() -> None:
    async with raw_server("--modern", "--refuse") as server:
        with pytest.raises(httpx2.ConnectError):
            await post(server.url, "hello")
        await server.order(listen=True)
        assert text_of(await post(server.url, "hello")) == "hello"
    with refused_port() as port, pytest.raises(httpx2.ConnectError):
        await post(f"http://127.0.0.1:{port}/mcp", "hello")


def through(proxy: Any) -> str:
    """The endpoint behind a TCP proxy."""
    return f"http://127.0.0.1:{proxy.port}/mcp"


async def test_the_tcp_proxy_treats_each_connection_separately() -> None:
    async with (
        raw_server("--modern") as server,
        tcp_proxy(server.port) as proxy,
        httpx2.AsyncClient(verify=False) as standing,
    ):
        first = await call(standing, through(proxy), text="first")
        assert text_of(first) == "first"
        proxy.when(b'"reset"', "reset")
        proxy.when(b'"cut"', "cut")
        for text, error in [("reset", httpx2.ReadError), ("cut", httpx2.RemoteProtocolError)]:
            with pytest.raises(error):
                await post(through(proxy), text)
        proxy.next(Plan(deed="half_close", received=20), Plan(deed="reset"), Plan(delay=0.01))
        for _ in range(2):
            with pytest.raises(httpx2.TransportError):
                await post(through(proxy), "planned")
        assert text_of(await post(through(proxy), "delayed")) == "delayed"
        proxy.refuse()
        with pytest.raises(httpx2.ConnectError):
            await post(through(proxy), "refused")
        assert text_of(await call(standing, through(proxy), text="still")) == "still"
        proxy.accept()
        assert text_of(await post(through(proxy), "accepted")) == "accepted"
        assert proxy.accepted == 7
        assert [connection.number for connection in proxy.carrying(b'"still"')] == [1]
        await eventually(lambda: [connection.number for connection in proxy.open] == [1])


async def test_the_tcp_proxy_stalls_and_resumes_a_connection() -> None:
    async with raw_server("--modern") as server, tcp_proxy(server.port) as proxy:
        proxy.when(b'"stalled"', "stall", forwarded=True)
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                answers.append(text_of(await post(through(proxy), "stalled")))

            answers: list[str] = []
            group.start_soon(wait)
            await eventually(lambda: proxy.accepted and proxy.last.deed == "stall")
            assert text_of(await post(through(proxy), "another")) == "another"
            assert not answers
            proxy.connections[0].resume()
        assert answers == ["stalled"]


async def test_the_forward_proxy_records_what_passes(tmp_path: Path) -> None:
    files = tls(tmp_path)
    async with raw_server("--modern") as server, forward_proxy("user", "word") as proxy:
        url = f"http://nowhere.invalid:{server.port}/mcp"
        assert text_of(await post(url, "hello", proxy=proxy.url)) == "hello"
        assert (await post(url, "hello", proxy=f"http://127.0.0.1:{proxy.port}")).status_code == 407
        assert [(passed.verb, passed.target) for passed in proxy.passed] == [("POST", url)] * 2
    async with raw_server("--modern", tls=files) as server, forward_proxy() as proxy:
        context = ssl.create_default_context(cafile=files.ca)
        assert text_of(await post(server.url, "hello", proxy=proxy.url, verify=context)) == "hello"
        assert [(passed.verb, passed.port) for passed in proxy.passed] == [("CONNECT", server.port)]
        proxy.status = 502
        with pytest.raises(httpx2.ProxyError):
            await post(server.url, "hello", proxy=proxy.url, verify=context)
