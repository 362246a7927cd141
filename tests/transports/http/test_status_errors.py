"""What an HTTP error says: a short excerpt of its body without secrets, what credentials it demands, where it redirects to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest

from helpers.http import fault, raw_server
from helpers.http_calls import BOUND, TOKEN, invented, shown
from mcp_pool import ConnectError, HttpServer, HttpStatusError, MCPPool, SseServer
from mcp_pool.transports.http import answers, sse_stream
from mcp_pool.transports.http.status_errors import MAX_TEXT, readable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

KINDS = [pytest.param(HttpServer, "mcp", id="http"), pytest.param(SseServer, "sse", id="sse")]
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def failure(spec: Any) -> ConnectError:
    """The error of a failed connection attempt, which shows no token."""
    async with MCPPool() as pool:
        with anyio.fail_after(BOUND), pytest.raises(ConnectError) as caught:
            await pool.connect("s", spec)
    assert TOKEN not in shown(caught.value)
    assert isinstance(caught.value.cause, HttpStatusError)
    return caught.value


async def rejected(kind: type[Any], response: httpx2.Response) -> tuple[ConnectError, HttpStatusError]:
    """The errors of an attempt in which every request gets this response."""
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: response)) as lent:
        error = await failure(kind("http://nowhere.invalid/mcp", http_client=lent, headers=BEARER))
    assert isinstance(error.cause, HttpStatusError)
    return error, error.cause


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_failed_handshake_quotes_the_beginning_of_the_response_without_secrets(
    kind: type[Any], place: str
) -> None:
    said = f'{{"detail":\n "no such key: {TOKEN}\x1b[31m {"x" * 500}"}}'
    async with raw_server(faults=[fault("says", [503, "application/json", said])]) as server:
        error = await failure(kind(f"{server.origin}/{place}", headers=BEARER))
    cause: Any = error.cause
    assert """HTTP status 503 ('{"detail": "no such key: ***\\x1b[31m xxx""" in error.reason
    assert cause.excerpt.startswith('{"detail": "no such key: ***\\x1b[31m xxx')
    assert cause.excerpt.isprintable()
    assert len(cause.excerpt) < 250
    assert cause.authenticate is None


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_rejected_call_quotes_the_title_of_a_page(kind: type[Any], place: str) -> None:
    async with raw_server() as server, MCPPool({"s": kind(f"{server.origin}/{place}")}) as pool:
        await server.misbehave(fault("status", 503, on="tools/call:echo"))
        with pytest.raises(HttpStatusError, match=r"HTTP status 503 \('Sorry'\) during the call") as caught:
            await pool.call_tool("s__echo", {"text": "x"})
        assert (caught.value.excerpt, caught.value.authenticate) == ("Sorry", None)
        await server.misbehave(fault("says", [500, "text/plain", ""], on="tools/call:echo"))
        with pytest.raises(HttpStatusError, match="HTTP status 500 during the call") as caught:
            await pool.call_tool("s__echo", {"text": "x"})
        assert caught.value.excerpt is None


CHALLENGES = {
    f'Bearer realm="{TOKEN}", error="invalid_token", error_description="It has expired"': "Bearer error=invalid_token",
    "Bearer error=insufficient_scope": "Bearer error=insufficient_scope",
    "Negotiate": "Negotiate",
    'Digest realm="error=x", nonce="error_1"': "Digest",
    '"nonsense"': None,
    TOKEN: "***",
}


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
@pytest.mark.parametrize("header", CHALLENGES)
async def test_a_rejection_names_the_scheme_and_the_error_that_the_server_demands(kind: type[Any], header: str) -> None:
    response = httpx2.Response(401, headers={"WWW-Authenticate": header}, text="Who are you?")
    error, cause = await rejected(kind, response)
    told = CHALLENGES[header]
    assert (cause.authenticate, cause.excerpt) == (told, "Who are you?")
    assert f"HTTP status 401 ({f'{told}, ' if told else ''}'Who are you?') during" in error.reason
    assert not error.retryable


async def test_a_rejected_call_carries_what_the_server_demands() -> None:
    headers = {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    async with (
        invented(lambda _message, _request: httpx2.Response(403, headers=headers)) as lent,
        MCPPool({"s": HttpServer("http://nowhere.invalid/mcp", http_client=lent)}) as pool,
    ):
        with pytest.raises(HttpStatusError, match=r"403 \(Bearer error=insufficient_scope\) during") as caught:
            await pool.call_tool("s__echo")
    assert (caught.value.excerpt, caught.value.authenticate) == (None, "Bearer error=insufficient_scope")


class Stalled(httpx2.AsyncByteStream):
    """A body that begins and never ends."""

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        yield f"the beginning of {TOKEN[:-1]}".encode()
        await anyio.sleep_forever()


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_an_error_whose_body_stalls_is_reported_without_an_excerpt(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (answers, sse_stream):
        monkeypatch.setattr(module, "OTHER_BODY_TIMEOUT", 0.05)
    error, cause = await rejected(kind, httpx2.Response(503, stream=Stalled()))
    assert "HTTP status 503 during" in error.reason
    assert (cause.status, cause.excerpt) == (503, None)


@pytest.mark.parametrize(("kind", "place"), KINDS)
async def test_a_redirect_says_where_to_or_that_only_the_path_differs(kind: type[Any], place: str) -> None:
    async with raw_server() as server:
        for location, told, advice in (
            (f"https://elsewhere.invalid:8443/{TOKEN}", "https://elsewhere.invalid:8443, which", "correct its URL"),
            ("/in-circles/" + place, "another path of the same origin, which", "Correct the path in its URL"),
        ):
            await server.misbehave(fault("redirect", location))
            error = await failure(kind(f"{server.origin}/{place}"))
            assert f"redirects to {told} is not followed during" in error.reason
            assert advice in error.advice
            assert "circles" not in shown(error)


PAGE = "<html><head><style>b {color: red}</style><title>\n502\n  Bad&nbsp;Gateway </title></head><body>x</body></html>"
LONG = "<p>" + "x" * MAX_TEXT


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (PAGE, "text/html", "502 Bad\xa0Gateway"),
        (PAGE.replace("title", "i"), "text/html", "502 Bad\xa0Gateway x"),
        ("<TITLE lang=en> </TITLE><script>let a = 1 < 2", "application/xhtml", ""),
        ("<title></title><script>a</script><h1>No &lt;key&gt;</h1><p class='", "text/html", "No <key>"),
        (PAGE + LONG, "text/html", "502 Bad\xa0Gateway"),
        (LONG, "text/html", ""),
        ("<title>" + LONG[3:], "text/html", ""),
        ('{\n  "error":  "no"\n}\n', "application/json", '{ "error":  "no" }'),
        (LONG, "text/plain", LONG),
        ("", "", ""),
    ],
)
def test_a_body_is_reduced_to_its_title_or_its_words(body: str, kind: str, expected: str) -> None:
    assert readable(body.encode(), kind).decode() == expected


def test_a_body_that_is_no_text_is_escaped() -> None:
    assert readable(b"\x89PNG\r\n\xff", "image/png") == rb"\x89PNG \xff"


async def test_an_error_that_is_json_but_not_json_rpc_is_quoted() -> None:
    response = httpx2.Response(400, json={"error": "invalid_request"})
    error, cause = await rejected(HttpServer, response)
    assert json.loads(str(cause.excerpt)) == {"error": "invalid_request"}
    assert "invalid_request" in error.reason
