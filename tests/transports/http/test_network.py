"""TLS and proxies from the environment: trusted certificates, shared contexts, and the route of requests."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from helpers.calls import words
from helpers.http import raw_server, refused_port, tls
from mcp_pool import ConnectError, HttpServer, MCPPool, RestartPolicy, SseServer
from mcp_pool.transports.channel import Channel
from mcp_pool.transports.http import client as http_client
from mcp_pool.transports.http import tls as contexts
from servers.forward_proxy import forward_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from mcp_pool.transports.http.client import Forward

KINDS = [pytest.param(HttpServer, "mcp", id="http"), pytest.param(SseServer, "sse", id="sse")]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[ssl.SSLContext]:
    """The TLS contexts that were created."""
    made: list[ssl.SSLContext] = []
    make = httpx2.create_ssl_context

    def note(*args: Any, **options: Any) -> ssl.SSLContext:
        made.append(make(*args, **options))
        return made[-1]

    monkeypatch.setattr(httpx2, "create_ssl_context", note)
    contexts._default_context.cache_clear()
    return made


async def echo(pool: MCPPool, server_id: str, text: str = "hello") -> str:
    """Call the tool that every server has."""
    return words(await pool.call_tool(f"{server_id}__echo", {"text": text}))


async def test_a_hundred_servers_share_one_tls_context(
    made: list[ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    async with raw_server("--modern", tls=files) as server:
        configs = {f"s{number}": HttpServer(f"{server.origin}/{number}/mcp") for number in range(100)}
        async with MCPPool(configs) as pool:
            await pool.wait_ready()
            assert pool.connected_count == 100
        assert len(made) == 1


async def test_plain_http_makes_no_tls_context(made: list[ssl.SSLContext]) -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("bare", HttpServer(server.url))
        await pool.connect("key", HttpServer(server.url, headers={"Authorization": "key"}))
        await pool.connect("basic", HttpServer(server.url, auth=httpx2.BasicAuth("user", "word")))
        await pool.connect("sse", SseServer(server.sse_url))
    assert made == []


def test_different_trust_settings_use_different_contexts(
    made: list[ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ssl.SSLContext] = []
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("SSL_CERT_FILE", str(tls(tmp_path / name).ca))
        seen += [contexts.default_context(), contexts.default_context()]
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    seen.append(contexts.default_context())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "a" / "ca.pem"))
    monkeypatch.delenv("SSL_CERT_DIR")
    assert contexts.default_context() is seen[0] is seen[1]
    assert seen[2] is seen[3]
    assert made == [seen[0], seen[2], seen[4]]


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_the_environment_determines_the_trusted_certificates(
    kind: type[Any], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tls(tmp_path)
    async with raw_server(tls=files) as server, MCPPool() as pool:
        config = kind(f"{server.origin}/{place}")
        with pytest.raises(ConnectError, match="certificate") as caught:
            await pool.connect("s", config)
        chain, link = "", caught.value.cause
        while link is not None:
            chain, link = f"{chain}{link!r}", link.__cause__ or link.__context__
        assert "CERTIFICATE_VERIFY_FAILED" in chain
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
        await pool.connect("s", config)
        assert await echo(pool, "s") == "hello"


async def test_a_redirect_from_http_to_https_uses_the_trust_settings_of_the_environment(
    made: list[ssl.SSLContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Through:
        channel = Channel(tracked=True)

        async def send(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
            return await forward(request)

    files = tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    async with raw_server() as plain, raw_server(tls=files) as secure:
        client = http_client.ServerHttpClient(plain.url, Through(), headers={"X": "y"}, auth=None, borrowed_client=None)
        async with client:
            assert (await client.get(plain.url)).status_code == 400
            assert made == []
            assert (await client.get(secure.url)).status_code == 400
            assert len(made) == 1


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_proxy_from_the_environment_is_used(
    kind: type[Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "MAX_IDLE_CONNECTIONS", 0)  # this proxy serves one request per connection
    async with raw_server() as server, forward_proxy("user", "pass-word") as proxy, MCPPool() as pool:
        for variable in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(variable, proxy.url)
            await pool.connect("s", kind(f"http://nowhere.invalid:{server.port}/{place}"))
            assert await echo(pool, "s") == "hello"
            await pool.disconnect("s")
            assert {passed.host for passed in proxy.passed} == {"nowhere.invalid"}
            assert len(proxy.passed) > 2
            proxy.passed.clear()
            monkeypatch.delenv(variable)


async def test_a_proxy_from_the_environment_tunnels_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    async with raw_server(tls=files) as server, forward_proxy() as proxy, MCPPool() as pool:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        await pool.connect("s", HttpServer(server.url))
        assert await echo(pool, "s") == "hello"
        assert {(passed.verb, passed.port) for passed in proxy.passed} == {("CONNECT", server.port)}


async def test_a_host_in_no_proxy_is_connected_to_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server() as server, forward_proxy() as proxy, MCPPool() as pool:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for exempt in ("127.0.0.1", "localhost,127.0.0.1", "*"):
            monkeypatch.setenv("NO_PROXY", exempt)
            await pool.connect("s", HttpServer(server.url))
            await pool.disconnect("s")
        assert proxy.passed == []


@pytest.mark.parametrize("status", [407, 502, None])
async def test_a_proxy_that_refuses_is_a_connect_error_that_shows_no_password(
    status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused_port() as port:
        async with raw_server() as server, forward_proxy() as proxy, MCPPool() as pool:
            proxy.status = status
            monkeypatch.setenv(
                "HTTP_PROXY", f"http://user:pass-word@127.0.0.1:{port if status is None else proxy.port}"
            )
            with pytest.raises(ConnectError) as caught:
                await pool.connect("s", HttpServer(server.url, restart=RestartPolicy.never()))
            assert str(status or "could not be reached") in str(caught.value)
            assert "pass-word" not in f"{caught.value} {caught.value.cause!r}"
