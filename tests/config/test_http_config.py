"""Specs of servers behind a URL: mistakes are reported, values compare by content, and secrets stay secret."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx2
import pytest

from helpers.common import eventually
from helpers.http import fault, raw_server, refused_port
from helpers.secrets import shown, visible
from mcp_pool import ConfigError, ConnectError, HttpServer, MCPPool, RestartPolicy, SseServer
from mcp_pool._shared.redaction import Redactor
from mcp_pool.config.servers import UrlServer
from mcp_pool.config.spec import ServerSpec
from mcp_pool.config.target import Target

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from loguru import Message

KINDS = [pytest.param(HttpServer, id="http"), pytest.param(SseServer, id="sse")]
URL = "http://localhost:8000/mcp"
SECRET = "tulip-7f3a9c"
TOKEN = "violet-55aa0e"
"""A secret that is not in the spec: the auth flow gets it from elsewhere."""
NEVER = RestartPolicy.never()
anything: Any = object()

WRONG_URLS: list[Any] = [
    "",
    SECRET,
    f"localhost/{SECRET}",
    f"localhost:8000/{SECRET}",
    f"//localhost/{SECRET}",
    f" http://localhost/{SECRET}",
    f"ftp://localhost/{SECRET}",
    f"ws://localhost/{SECRET}",
    f"{SECRET}:{SECRET}",
    f"file:///{SECRET}",
    f"http:///{SECRET}",
    f"http://:8000/{SECRET}",
    f"http://user:{SECRET}@/",
    f"http://local host/{SECRET}",
    f"http://local%20host/{SECRET}",
    f"http://[::1/{SECRET}",
    f"http://localhost:{SECRET}/",
    "http://localhost:0/",
    "http://localhost:65536/",
    "http://localhost:-1/",
    f"http://localhost/{SECRET}\0",
    f"http://localhost/\n{SECRET}",
    f"http://localhost/\ud800{SECRET}",
    f"http://localhost/{SECRET}{'x' * 70_000}",
    SECRET.encode(),
    httpx2.URL(f"http://localhost/{SECRET}"),
    None,
    8000,
]
RIGHT_URLS = [
    "http://localhost",
    "HTTP://LOCALHOST/",
    "https://user:word@example.com:8443/a/b?c=d#e",
    "http://127.0.0.1:1",
    "http://[::1]:65535/mcp",
    "http://[fe80::1%25eth0]/mcp",
    "http://bücher.example/ü",
    "http://a_b.example./",
]
WRONG_HEADERS: list[Any] = [
    [("X-Key", SECRET)],
    SECRET,
    1,
    {"": SECRET},
    {f"Bearer {SECRET}": "x"},
    {"X Key": SECRET},
    {"X-Key:": SECRET},
    {"X-Kéy": SECRET},
    {"X-Key\n": SECRET},
    {b"X-Key": SECRET},
    {1: SECRET},
    {"X-Key": SECRET.encode()},
    {"X-Key": None},
    {"X-Key": f"{SECRET}é"},
    {"X-Key": f"{SECRET}\r\nX-Other: {SECRET}"},
    {"X-Key": f"{SECRET}\n"},
    {"X-Key": f"{SECRET}\0"},
    {"X-Key": f" {SECRET}"},
    {"X-Key": f"{SECRET}\t"},
    {"X-Key": SECRET, "x-key": SECRET},
    {"Content-Length": "12"},
    {"transfer-encoding": "chunked"},
    {"Mcp-Session-Id": SECRET},
]
WRONG_OTHERS: list[tuple[str, Any]] = [
    ("auth", ("user", SECRET)),
    ("auth", SECRET),
    ("auth", lambda request: request),
    ("auth", httpx2.BasicAuth),
    ("http_client", httpx2.Client),
    ("http_client", httpx2.AsyncClient),
    ("http_client", SECRET),
    ("http_client", anything),
    ("max_message_size", 0),
    ("close_timeout", None),
    ("connect_timeout", -1),
    ("required", 1),
    ("mode", "modern"),
]
WRONG = [
    *(("url", url) for url in WRONG_URLS),
    *(("headers", headers) for headers in WRONG_HEADERS),
    *WRONG_OTHERS,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: ascii(value)[:30].partition(" at 0x")[0])
def test_an_invalid_field_raises_an_error_with_class_and_field_but_without_the_value(
    kind: type[Any], field: str, value: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**{"url": URL, field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{kind.__name__}: {field} ")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_closed_client_is_an_error(kind: type[Any]) -> None:
    client = httpx2.AsyncClient()
    spec = kind(URL, http_client=client)
    MCPPool({"search": spec})
    await client.aclose()
    async with MCPPool() as pool:
        with pytest.raises(ConfigError, match="'search': http_client must be open"):
            await pool.connect("search", spec)
        assert pool.get_status("search") is None


def test_the_error_for_an_invalid_url_says_what_is_wrong_with_it() -> None:
    for url, words in [
        (b"x", "not a bytes"),
        ("ftp://localhost", "must begin with http:// or https:// and name a host"),
        ("http://localhost:0", "port between 1 and 65535"),
        ("http://a b", "letters, digits, hyphens and dots"),
        ("http://[::1", "must be a valid URL"),
    ]:
        with pytest.raises(ConfigError, match=words):
            HttpServer(url)


@pytest.mark.parametrize("url", RIGHT_URLS)
def test_any_http_url_is_valid(url: str) -> None:
    MCPPool({"search": HttpServer(url, headers={"X": "", "Y": "a b", "Z": "c\td", "!#$%&'*+.^_`|~0": "~"})})


def test_specs_with_a_url_have_the_common_fields_too() -> None:
    common = {field.name for field in attrs.fields(ServerSpec)}
    own = {field.name for field in attrs.fields(UrlServer)} - common
    assert own == {"url", "headers", "auth", "http_client"}
    for kind in (HttpServer, SseServer):
        assert {field.name for field in attrs.fields(kind)} == common | own
        spec = kind(URL, connect_timeout=1, call_timeout=2, max_call_time=3, close_timeout=4, restart=NEVER)
        held = Target.of(MCPPool()._supervisor.settings, "s", spec).limits
        assert (held.connect_timeout, held.call_timeout, held.max_call_time) == (1, 2, 3)
        assert (held.close_timeout, held.restart) == (4, NEVER)


@pytest.mark.parametrize("kind", KINDS)
def test_specs_are_compared_by_content(kind: type[Any]) -> None:
    headers = {"A": "1", "B": "2"}
    auth, client = httpx2.BasicAuth("user", "word"), httpx2.AsyncClient()
    spec = kind(URL, headers=headers, auth=auth, http_client=client)
    assert spec == kind(URL, headers=dict(reversed(headers.items())), auth=auth, http_client=client)
    for field, value in {
        "url": URL + "/",
        "headers": {"A": "1"},
        "auth": httpx2.BasicAuth("user", "word"),  # cannot be compared by its contents
        "http_client": httpx2.AsyncClient(),
        "max_message_size": 1,
    }.items():
        assert attrs.evolve(spec, **{field: value}) != spec
    headers["C"] = "3"
    assert "C" not in spec.headers
    with pytest.raises(TypeError):
        spec.headers["C"] = "3"
    assert HttpServer(URL) != SseServer(URL)


def headers() -> dict[str, str]:
    """Headers from a function of a module."""
    return {"Authorization": f"Bearer {SECRET}"}


class Equal:
    """A headers function that is equal to all others of its class, with a method that is one as well."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    __hash__ = None

    def __call__(self) -> dict[str, str]:
        return {}

    async def later(self) -> dict[str, str]:
        return {}


@pytest.mark.parametrize("kind", KINDS)
def test_headers_functions_are_compared_by_identity(kind: type[Any]) -> None:
    one, other, values = Equal(), Equal(), {"A": "1"}
    for function in (headers, one, one.later, lambda: values, values.copy, dict):
        assert kind(URL, headers=function) == kind(URL, headers=function)
        assert hash(kind(URL, headers=function)) == hash(kind(URL, headers=function))
        assert kind(URL, headers=function) not in [kind(URL), kind(URL, headers={}), kind(URL, headers=other)]
        assert kind(URL, headers=function).headers is function
    assert kind(URL, headers=one.later) == kind(URL, headers=one.later)
    assert kind(URL, headers=values.copy) == kind(URL, headers=values.copy)
    assert kind(URL, headers=one.later) != kind(URL, headers=other.later)
    assert kind(URL, headers=values.copy) != kind(URL, headers=dict(values).copy)
    assert kind(URL, headers=lambda: values) != kind(URL, headers=lambda: values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda spec: pickle.loads(pickle.dumps(spec))])
def test_a_spec_with_a_headers_function_can_be_copied_pickled_and_hashed(kind: type[Any], copied: Any) -> None:
    spec = kind(URL, headers=headers)
    assert copied(spec) == spec
    assert copied(spec).headers is headers
    assert len({spec, copied(spec)}) == 1


def test_a_mapping_that_can_be_called_is_a_mapping() -> None:
    class Both(dict[str, str]):
        def __call__(self) -> None:
            raise AssertionError

    assert HttpServer(URL, headers=Both({"A": "1"})) == HttpServer(URL, headers={"A": "1"})


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_with_the_same_headers_function_is_the_same_server(kind: type[Any]) -> None:
    mine = Equal()
    async with raw_server() as server, MCPPool() as pool:
        url = server.sse_url if kind is SseServer else server.url
        await pool.connect("s", kind(url, headers=mine.later))
        assert await pool.connect("s", kind(url, headers=mine.later))
        with pytest.raises(ConfigError):
            await pool.connect("s", kind(url, headers=Equal().later))
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_another_config_does_not_disturb_a_connected_server(kind: type[Any], record_logs: list[Message]) -> None:
    async with raw_server() as server, MCPPool() as pool:
        url = server.sse_url if kind is SseServer else server.url
        await pool.connect("s", kind(url, headers={"A": "1", "B": "2"}))
        assert await pool.connect("s", kind(url, headers={"B": "2", "A": "1"}))
        assert [message.record["level"].name for message in record_logs][-1] == "WARNING"
        with pytest.raises(ConfigError):
            await pool.connect("s", kind(url, headers={"A": "1", "B": SECRET}))
        with pytest.raises(ConfigError):
            pool.add("s", kind(url))
        assert pool.server("s").generation == 1


def test_the_repr_of_a_spec_shows_scheme_host_and_port() -> None:
    spec = HttpServer(
        f"https://user:{SECRET}@example.com:8443/{SECRET}?token={SECRET}#{SECRET}",
        headers={"Authorization": f"Bearer {SECRET}"},
        auth=httpx2.BasicAuth("user", SECRET),
    )
    assert repr(spec) == "HttpServer('https://example.com:8443')"
    assert str(SseServer("http://[::1]/sse")) == "SseServer('http://[::1]')"


def test_every_secret_part_of_a_spec_is_masked() -> None:
    url = "https://user%40x:pass%2Fword@example.com:8443/api/k7f3a9c/%C3%BCber?token=a%2Fbcdefg&plainflag#fragment"
    spec = HttpServer(
        url, headers={"A": "Bearer headervalue", "B": "short"}, auth=httpx2.BasicAuth("alice-1", "wonder")
    )
    redactor = Redactor.of(spec.secrets())
    for secret in [
        *(url, "user%40x", "user@x", "pass%2Fword", "pass/word", "dXNlckB4OnBhc3Mvd29yZA=="),
        *("/api/k7f3a9c/%C3%BCber", "/api/k7f3a9c/über", "k7f3a9c", "a%2Fbcdefg", "a/bcdefg", "plainflag", "fragment"),
        *("Bearer headervalue", "headervalue", "alice-1", "wonder", "YWxpY2UtMTp3b25kZXI="),
    ]:
        assert redactor.text(f"so: {secret}!") == "so: ***!", secret
    for harmless in ("https://example.com:8443", "example.com", "short", "Bearer", "api"):
        assert redactor.text(harmless) == harmless
    assert Redactor.of(HttpServer("http://localhost:8000/").secrets()).text("http://localhost:8000/") == (
        "http://localhost:8000/"
    )


class Careless(httpx2.Auth):
    """Sends something that HTTP forbids, or raises an error that contains everything it knows."""

    def __init__(self, *, raises: bool) -> None:
        self.raises = raises

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if self.raises:
            response = httpx2.Response(500, request=request)
            response.raise_for_status()
        request.headers["Authorization"] = f"Bearer {TOKEN}\n"
        yield request


def secretive(kind: type[Any], server: str, **fields: Any) -> Any:
    """A spec that is full of secrets."""
    url = f"{server}/{SECRET}/{'sse' if kind is SseServer else 'mcp'}?token={SECRET}"
    return kind(url, headers={"X-Key": f"Key {SECRET}"}, restart=NEVER, **fields)


TROUBLES = [
    ("reset", None),
    ("close", None),
    ("status", 401),
    ("status", 503),
    ("redirect", f"http://elsewhere.invalid/{SECRET}"),
    ("error", [400, -32000, f"no tenant {SECRET} at /{SECRET}/mcp"]),
    ("content_type", "text/plain"),
    ("half_stream", "cut"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_no_failure_shows_a_secret(kind: type[Any], record_logs: list[Message]) -> None:
    async with raw_server("--modern") as server, MCPPool() as pool:
        for do, value in TROUBLES:
            await server.misbehave()
            await pool.connect("s", secretive(kind, server.origin))
            await server.misbehave(fault(do, value, on="tools/call"))
            with pytest.raises(Exception, match="'s'|tenant") as in_call:
                await pool.call_tool("s__silent" if kind is SseServer else "s__echo", timeout=2)
            lost = pool.server("s").last_error
            everything = [] if lost is None else [shown(lost)]
            await pool.disconnect("s")
            await server.misbehave(fault(do, value, on="GET" if kind is SseServer else "handshake"))
            with pytest.raises(ConnectError) as in_attempt:
                await pool.connect("s", secretive(kind, server.origin, connect_timeout=5))
            pool.add("t", secretive(kind, server.origin, connect_timeout=5))
            with pytest.raises(ConnectError):
                await pool.wait_ready("t")
            everything += [
                shown(in_attempt.value),
                visible(pool, "t"),
                *(f"{line} {line.record}" for line in record_logs),
            ]
            if "tenant" not in str(in_call.value):  # the server's own error
                everything.append(shown(in_call.value))
            assert SECRET not in "\n".join(everything), do
            await pool.disconnect("t")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raises", [True, False], ids=["raises", "forbidden header"])
async def test_an_auth_flow_that_fails_shows_no_secret(kind: type[Any], raises: bool) -> None:
    async with raw_server("--modern") as server, MCPPool() as pool:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", secretive(kind, server.origin, auth=Careless(raises=raises)))
    assert SECRET not in shown(caught.value)
    assert TOKEN not in shown(caught.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_cannot_be_reached_shows_only_its_origin(
    kind: type[Any], record_logs: list[Message]
) -> None:
    with refused_port() as port:
        async with MCPPool() as pool:
            with pytest.raises(ConnectError) as caught:
                await pool.connect("s", secretive(kind, f"http://user:{SECRET}@127.0.0.1:{port}"))
    assert f"http://127.0.0.1:{port}" in str(caught.value)
    assert SECRET not in shown(caught.value) + "\n".join(map(str, record_logs))
    assert "sse" not in str(caught.value)
    assert "mcp" not in str(caught.value).replace("mcp_pool", "")


async def test_a_stream_that_breaks_while_nobody_calls_shows_no_secret() -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", secretive(SseServer, server.origin))
        await server.order(streams="cut")
        await eventually(lambda: pool.server("s").last_error is not None)
        await anyio.wait_all_tasks_blocked()
        error = pool.server("s").last_error
        assert error is not None
        assert isinstance(error.cause, httpx2.RemoteProtocolError)
        assert str(error.cause.request.url) == server.origin
        assert SECRET not in shown(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_user_and_password_in_a_url_do_not_appear_in_the_http_clients_log(
    kind: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "httpx2")
    async with raw_server() as server, MCPPool() as pool:
        url = server.sse_url if kind is SseServer else server.url
        await pool.connect("s", kind(url.replace("://", f"://user:{SECRET}@")))
    assert "HTTP Request: POST http://127.0.0.1" in caplog.text
    assert SECRET not in caplog.text
