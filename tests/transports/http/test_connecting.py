"""Servers that cannot be connected to: the error says whether it is the name, the port, the certificate or a proxy."""

from __future__ import annotations

import errno
import gc
import socket
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.calls import words
from helpers.common import eventually
from helpers.http import fault, ran, raw_server, refused_port, tls
from helpers.http_calls import BOUND, shown
from mcp_pool import ConnectError, ConnectTimeout, Failed, HttpServer, MCPPool, RestartPolicy, SseServer
from mcp_pool.transports.http import client as http_client
from mcp_pool.transports.http import tls as contexts
from mcp_pool.transports.http.environment import UnusableSetting
from servers.forward_proxy import forward_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

KINDS = [pytest.param(HttpServer, "mcp", id="http"), pytest.param(SseServer, "sse", id="sse")]
SOON = RestartPolicy(initial_delay=0.01, multiplier=1.0)
PASSWORD = "pass-word-5d2c"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def failure(spec: Any) -> ConnectError:
    """The error of a failed connection attempt, which shows no password."""
    async with MCPPool() as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectError) as caught:
            await pool.connect("s", spec)
    assert PASSWORD not in shown(caught.value)
    return caught.value


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_refused_connection_and_a_rejected_certificate_are_told_apart(
    kind: type[Any], place: str, tmp_path: Path
) -> None:
    with refused_port() as port:
        error = await failure(kind(f"http://127.0.0.1:{port}/{place}"))
        assert f"could not be reached at http://127.0.0.1:{port} (connection refused) during" in error.reason
        assert error.advice == "Check that it is running, and listening there."
    async with raw_server(tls=tls(tmp_path)) as server:
        error = await failure(kind(f"{server.origin}/{place}"))
        assert f"could not be reached at {server.origin} (certificate not trusted) during" in error.reason
        assert "SSL_CERT_FILE" in error.advice
        assert error.retryable


UNREACHABLE = {
    "host name not found": (httpx2.ConnectError, socket.gaierror(socket.EAI_NONAME, "not known"), "host name"),
    "no connection within 10 s": (httpx2.ConnectTimeout, TimeoutError(), "firewall"),
    "no connection": (httpx2.ConnectError, OSError(errno.ENETUNREACH, "unreachable"), "network connection"),
    "TLS failed": (httpx2.ConnectError, ssl.SSLError(1, "wrong version number"), "this port is for https"),
    "the proxy refuses": (httpx2.ProxyError, OSError(), "Check the proxy"),
}


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
@pytest.mark.parametrize("what", UNREACHABLE)
async def test_an_unknown_name_a_silent_host_an_unreachable_network_and_a_refusing_proxy_are_told_apart(
    kind: type[Any], what: str
) -> None:
    raised, cause, advice = UNREACHABLE[what]

    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise raised("failed", request=request) from cause

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(refuse)) as lent:
        error = await failure(kind("http://nowhere.invalid/mcp", http_client=lent))
    assert f"could not be reached at http://nowhere.invalid ({what}) during" in error.reason
    assert advice in error.advice
    assert error.retryable


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_proxy_that_cannot_be_reached_or_refuses_is_named_without_its_password(
    kind: type[Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused_port() as port:
        monkeypatch.setenv("ALL_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{port}")
        for scheme in ("http", "https"):
            error = await failure(kind(f"{scheme}://nowhere.invalid/{place}"))
            through = f"{scheme}://nowhere.invalid through the proxy 127.0.0.1:{port} (connection refused) during"
            assert f"could not be reached at {through}" in error.reason
            assert "HTTPS_PROXY" in error.advice
    async with forward_proxy("user", PASSWORD) as proxy:
        proxy.status = 407
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        error = await failure(kind(f"https://nowhere.invalid/{place}"))
        assert f"through the proxy 127.0.0.1:{proxy.port} (the proxy refuses) during" in error.reason
        assert "407" in error.reason
        error = await failure(kind(f"http://nowhere.invalid/{place}"))
        assert "HTTP status 407" in error.reason
        assert "its credentials, and HTTP_PROXY" in error.advice


async def test_a_certificate_that_is_not_trusted_behind_a_proxy_is_named_with_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_server(tls=tls(tmp_path)) as server, forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        error = await failure(HttpServer(server.url))
        assert f"{server.origin} through the proxy 127.0.0.1:{proxy.port} (certificate not trusted)" in error.reason
        assert "Check the proxy" in error.advice
        assert "SSL_CERT_FILE" in error.advice


async def test_a_call_whose_tunnel_a_proxy_refuses_has_not_run_and_is_sent_on_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, ledger, heard = tls(tmp_path), tmp_path / "ledger", list[str]()
    monkeypatch.setattr(http_client, "MAX_IDLE_CONNECTIONS", 0)  # each request needs a tunnel of its own
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    async with raw_server("--modern", tls=files, ledger=ledger) as server, forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with MCPPool({"s": HttpServer(server.url, restart=SOON)}) as pool, anyio.create_task_group() as group:
            await pool.wait_ready()
            proxy.status = 502

            async def call() -> None:
                heard.append(words(await pool.call_tool("s__echo", {"text": "there"})))

            group.start_soon(call)
            await eventually(lambda: "the proxy refuses" in str(pool.server("s").last_error))
            proxy.status = None
        assert heard == ["there"]
    assert ran(ledger, "echo") == 1


@pytest.mark.parametrize(("kind", "place"), KINDS)
@pytest.mark.parametrize("fill", [None, "no certificate"], ids=["missing", "wrong"])
async def test_an_unusable_ssl_cert_file_is_named_and_not_retried_until_it_is_corrected(
    kind: type[Any], place: str, fill: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, wrong = tls(tmp_path), tmp_path / "wrong.pem"
    if fill is not None:
        wrong.write_text(fill)
    async with raw_server(tls=files) as server, raw_server() as plain, MCPPool(restart=SOON) as pool:
        monkeypatch.setenv("SSL_CERT_FILE", str(wrong))
        pool.add("s", kind(f"{server.origin}/{place}"))
        await eventually(lambda: isinstance(pool.server("s").state, Failed))
        error: Any = pool.server("s").last_error
        why = "No such file or directory" if fill is None else "no certificates in it"
        assert f"cannot be connected: SSL_CERT_FILE cannot be used ({why})." in error.reason
        assert error.advice.startswith("Correct SSL_CERT_FILE, then call restart()")
        assert (error.attempt, error.retryable) == (1, False)
        await pool.connect("plain", kind(f"{plain.origin}/{place}"))
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
        await pool.server("s").restart()
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


def test_certificates_of_the_system_that_cannot_be_loaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> ssl.SSLContext:
        raise ssl.SSLError(1, "no start line")

    monkeypatch.setattr(httpx2, "create_ssl_context", fail)
    contexts._default_context.cache_clear()
    with pytest.raises(UnusableSetting, match="the system's trust store cannot be used"):
        contexts.default_context()


@pytest.mark.parametrize(("kind", "place"), KINDS)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "proxy",
    [
        f"ftp://user:{PASSWORD}@host",
        f"user:{PASSWORD}@host:port",
        f"http://user:{PASSWORD}/@host",
        f"socks5://user:{PASSWORD}@host",
    ],
    ids=["scheme", "port", "slash", "socks"],
)
async def test_an_unusable_proxy_is_named_without_its_url_and_not_retried_until_it_is_corrected(
    kind: type[Any], place: str, variable: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "elsewhere.invalid")
    async with raw_server() as server, MCPPool(restart=SOON) as pool:
        monkeypatch.setenv(variable, proxy)
        pool.add("s", kind(f"{server.origin}/{place}"))
        await eventually(lambda: isinstance(pool.server("s").state, Failed))
        error: Any = pool.server("s").last_error
        assert f"cannot be connected: {variable} is not the URL of a proxy that can be used." in error.reason
        assert error.advice.startswith(f"Correct {variable} (http://host:port;")
        assert (error.attempt, error.retryable) == (1, False)
        assert PASSWORD not in shown(error)
        monkeypatch.delenv(variable)
        await pool.server("s").restart()
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


async def test_a_proxy_without_a_scheme_beside_an_unusable_one_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "ftp://127.0.0.1:9")
    error = await failure(HttpServer("http://127.0.0.1:9/mcp"))
    assert "connected: HTTPS_PROXY is not" in error.reason


async def test_a_lost_session_names_a_restart_and_replicas_as_its_possible_reasons() -> None:
    rules = [fault("session_lost", on="tools/call:big")]
    async with raw_server(faults=rules) as server, MCPPool({"s": HttpServer(server.url, mode="legacy")}) as pool:
        with anyio.fail_after(BOUND), pytest.raises(Exception, match="no longer knows the session") as caught:
            await pool.call_tool("s__big", {"n": 1})
        error: Any = caught.value
        assert "may have been restarted" in error.advice
        assert "replicas without sticky sessions" in error.advice


@pytest.mark.parametrize(("kind", "place"), KINDS)
@pytest.mark.parametrize("through_auth", [False, True], ids=["direct", "auth flow"])
async def test_a_tls_handshake_that_is_given_up_leaves_no_socket_open(
    kind: type[Any], place: str, *, through_auth: bool
) -> None:
    """A reference cycle would leave it to the garbage collector, so the collector is off."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/{place}"
        spec = kind(url, connect_timeout=0.3)
        if through_auth:
            spec = kind("http://127.0.0.1:9", connect_timeout=0.3, auth=AsksElsewhere(url))
        gc.disable()
        try:
            async with MCPPool() as pool:
                with pytest.raises(ConnectTimeout):
                    await pool.connect("s", spec)
                connection, _ = silent.accept()
                with connection:
                    connection.settimeout(BOUND)
                    await anyio.to_thread.run_sync(until_closed, connection)
        finally:
            gc.enable()


class AsksElsewhere(httpx2.Auth):
    """An authorization flow that sends a request to another server first."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        yield httpx2.Request("POST", self.url)
        yield request


def until_closed(connection: socket.socket) -> None:
    """Read until the other side has closed the connection."""
    while connection.recv(65536):
        pass
