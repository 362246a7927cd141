"""Credentials that are not in the spec are masked as well: those of an auth flow, an event hook or a borrowed client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from helpers.calls import words
from helpers.common import connection_of
from helpers.http import raw_server
from helpers.http_calls import shown
from helpers.memory import PLACE, OverHttp, OverSse, event
from mcp_pool import ConnectError, HttpServer, MCPPool, RestartPolicy, SseServer
from mcp_pool._shared.redaction import MAX_LEARNED

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SECRET = "tulip-7f3a9c"
BEARER = {"Authorization": f"Bearer {SECRET}"}
NEVER = RestartPolicy.never()


class Bearing(httpx2.Auth):
    """Sends a token, possibly on a copy of the request."""

    def __init__(self, *, copies: bool = False) -> None:
        self.copies = copies

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if self.copies:
            headers = {**request.headers, **BEARER}
            request = httpx2.Request(request.method, request.url, headers=headers, content=await request.aread())
        request.headers.update(BEARER)
        yield request


async def bear(request: httpx2.Request) -> None:
    """An event hook that gives the request a token."""
    request.headers.update(BEARER)


WAYS = [
    pytest.param({"headers": BEARER}, {}, id="headers"),
    pytest.param({"auth": Bearing()}, {}, id="a flow"),
    pytest.param({"auth": Bearing(copies=True)}, {}, id="a flow that copies"),
    pytest.param({}, {"headers": BEARER}, id="lent headers"),
    pytest.param({}, {"auth": Bearing()}, id="a lent flow"),
    pytest.param({}, {"auth": ("somebody", SECRET)}, id="lent name and password"),
    pytest.param({}, {"cookies": {"sid": SECRET}}, id="lent cookies"),
    pytest.param({}, {"event_hooks": {"request": [bear]}}, id="a hook"),
    pytest.param({}, {"headers": {"Proxy-Authorization": f"Custom {SECRET}"}}, id="lent headers for a proxy"),
]


def refusing(kind: type[Any]) -> Any:
    """A server that rejects the handshake and echoes the credentials."""

    async def take(message: dict[str, Any]) -> httpx2.Response | None:
        if "id" not in message:
            return None
        error = {"code": -32600, "message": f"unknown credentials {SECRET}", "data": {"seen": SECRET}}
        answer = {"jsonrpc": "2.0", "id": message["id"], "error": error}
        if isinstance(server, OverHttp):
            return httpx2.Response(200, json=answer)
        server.say(event(answer))
        return httpx2.Response(202)

    server = (OverHttp if kind is HttpServer else OverSse)(take)
    return server


@pytest.mark.parametrize(("own", "lent"), WAYS)
@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_credentials_that_a_server_echoes_are_masked(
    kind: type[Any], own: dict[str, Any], lent: dict[str, Any]
) -> None:
    async with httpx2.AsyncClient(transport=refusing(kind), **lent) as client, MCPPool() as pool:
        with pytest.raises(ConnectError, match=r"unknown credentials \*\*\*") as caught:
            await pool.connect("s", kind(f"{PLACE}/sse", http_client=client, mode="legacy", **own))
        assert SECRET not in shown(caught.value)


@pytest.mark.parametrize("auth", [Bearing(), Bearing(copies=True)], ids=["in place", "on a copy"])
@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_credentials_of_a_borrowed_client_are_masked_too(kind: type[Any], auth: httpx2.Auth) -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", kind(server.sse_url if kind is SseServer else server.url, auth=auth, restart=NEVER))
        assert connection_of(pool, "s").target.redactor.text(f"so: {SECRET}, Bearer {SECRET}") == "so: ***, ***"


async def test_a_session_id_is_masked() -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, mode="legacy", restart=NEVER))
        (session,) = (await server.order())["sessions"]
        assert connection_of(pool, "s").target.redactor.text(f"no session {session}") == "no session ***"


class Counting(httpx2.Auth):
    """Sends a new token with each request."""

    count = 0

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        self.count += 1
        request.headers["Authorization"] = f"Bearer {self.token(self.count)}"
        yield request

    @staticmethod
    def token(number: int) -> str:
        return f"token-{number:06}"


async def test_only_the_newest_credentials_are_remembered() -> None:
    async def take(_message: dict[str, Any]) -> None:
        return None

    auth = Counting()
    async with httpx2.AsyncClient(transport=OverHttp(take)) as client, MCPPool() as pool:
        await pool.connect("s", HttpServer(f"{PLACE}/mcp", http_client=client, mode="legacy", auth=auth))
        for _ in range(3 * MAX_LEARNED):
            assert words(await pool.call_tool("s__work")) == "done"
        hidden = [
            number
            for number in range(1, auth.count + 1)
            if connection_of(pool, "s").target.redactor.text(auth.token(number)) == "***"
        ]
        assert hidden == list(range(auth.count - MAX_LEARNED + 1, auth.count + 1))
