"""Helpers for tests of user code: functions of a program that raise, wherever the pool calls them."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import httpx2

from helpers.calls import words
from helpers.http_calls import BOUND
from mcp_pool import ConnectionStatus, HttpServer, InProcessServer, MCPPool
from mcp_pool.transports.http.client import current_message
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

Trouble: TypeAlias = "Callable[[httpx2.Request], Awaitable[None]]"
"""Runs before a request is sent, and may raise."""

PLACES = ["auth", "event hook", "transport", "headers"]
"""Where user code takes part in a request."""
BAD = "bad"
"""The text of the call that fails."""


class Flow(httpx2.Auth):
    """An auth flow that may raise."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        await self.trouble(request)
        yield request


class Below(httpx2.AsyncBaseTransport):
    """A transport that may raise, around the real one."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.real = httpx2.AsyncHTTPTransport(verify=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await self.trouble(request)
        return await self.real.handle_async_request(request)

    async def aclose(self) -> None:
        await self.real.aclose()


@asynccontextmanager
async def behind(
    url: str, place: str, trouble: Trouble, kind: type[Any] = HttpServer, **fields: Any
) -> AsyncIterator[Any]:
    """The spec of a server whose requests pass through such user code; `fields` are fields of the spec."""

    async def headers() -> dict[str, str]:
        outgoing = current_message.get()  # the others are passed the request
        await trouble(httpx2.Request("POST", url, content=b"" if outgoing is None else outgoing.body))
        return {}

    if place == "headers":
        yield kind(url, headers=headers, **fields)
    elif place == "auth":
        yield kind(url, auth=Flow(trouble), **fields)
    elif place == "event hook":
        async with httpx2.AsyncClient(event_hooks={"request": [trouble]}, verify=False) as client:
            yield kind(url, http_client=client, **fields)
    else:
        async with httpx2.AsyncClient(transport=Below(trouble)) as client:
            yield kind(url, http_client=client, **fields)


def is_bad(request: httpx2.Request) -> bool:
    """Whether a request is the call that fails."""
    if not request.content:
        return False
    message = json.loads(request.content)
    return message["method"] == "tools/call" and message["params"].get("arguments", {}).get("text") == BAD


@asynccontextmanager
async def pool_with_a_good_server() -> AsyncIterator[MCPPool]:
    """A pool that must close in time, with a server `good` that answers over its first connection until the end."""
    with anyio.fail_after(BOUND):
        async with MCPPool({"good": InProcessServer(calculator())}, close_timeout=1) as pool:
            yield pool
            assert words(await pool.call_tool("good__echo", {"text": "well"})) == "well"
            assert pool.server("good").generation == 1


def stands(pool: MCPPool, server_id: str = "s", *, generation: int = 1) -> bool:
    """Whether a server is connected, over this connection."""
    return pool.get_status(server_id) is ConnectionStatus.CONNECTED and pool.server(server_id).generation == generation
