"""Helpers for tests of streamable HTTP: calls that run meanwhile, and everything that an error shows."""

from __future__ import annotations

import json
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx2

from helpers.calls import words
from helpers.common import eventually
from helpers.http import ServerProcess, arrival, arrived
from mcp_pool import ConnectionStatus, HttpServer, MCPPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BOUND = 15.0
"""Seconds of real time that nothing here may take: what it is distinguished from takes longer, or forever."""
PLACE = "hidden-place-5d2c"
"""A part of the URL that must not be seen."""
TOKEN = "tulip-7f3a9c"
"""A header's value that must not be seen."""
MODERN = "2026-07-28"


def behind_url(server: ServerProcess, **fields: Any) -> HttpServer:
    """The spec of a server with secrets in its URL and headers; `fields` are fields of the spec."""
    return HttpServer(f"{server.origin}/{PLACE}/mcp", headers={"Authorization": f"Bearer {TOKEN}"}, **fields)


def shown(error: BaseException | None) -> str:
    """Everything that a log, a debugger or a curious program can find in an error. No error in the chain may be a group."""
    assert error is not None
    parts: list[object] = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        assert not isinstance(link, BaseExceptionGroup)
        parts += [link, repr(link), link.args, vars(link)]
        link = link.__cause__ or link.__context__
    return "\n".join(map(str, parts))


def hides_its_secrets(error: BaseException | None) -> bool:
    """Whether an error from a server of `behind_url` shows no secrets."""
    return not any(secret in shown(error) for secret in (PLACE, TOKEN))


@asynccontextmanager
async def in_flight(pool: MCPPool, ledger: Path, count: int = 5) -> AsyncIterator[None]:
    """Keep this many calls to the server `s` in flight during the block; then they are answered and must succeed."""
    keys = [f"held {number}" for number in range(count)]
    answers, server, before = list[str](), pool.server("s"), len(arrived(ledger, tool="hold"))

    async def hold(key: str) -> None:
        answers.append(words(await server.call_tool("hold", {"key": key})))

    async with anyio.create_task_group() as group:
        for key in keys:
            group.start_soon(hold, key)
        await arrival(ledger, tool="hold", count=before + count)
        yield
        assert not answers
        for key in keys:
            await server.call_tool("release", {"key": key})
    assert sorted(answers) == keys


async def connected(pool: MCPPool, generation: int, server_id: str = "s") -> None:
    """Wait until the connection of a server with this number is open."""
    server = pool.server(server_id)
    await eventually(lambda: server.status is ConnectionStatus.CONNECTED and server.generation >= generation)
    assert server.generation == generation


def invented(answer: Callable[[dict[str, Any], httpx2.Request], httpx2.Response]) -> httpx2.AsyncClient:
    """A client to pass as `http_client`, in which a function answers the calls of a server that does not exist."""
    shared: dict[str, Any] = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    results: dict[str, Any] = {
        "server/discover": {"supportedVersions": [MODERN], "capabilities": {"tools": {}}},
        "tools/list": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]},
    }

    def handle(request: httpx2.Request) -> httpx2.Response:
        message = json.loads(request.content)
        result = results.get(message["method"])
        if result is None:
            return answer(message, request)
        return httpx2.Response(200, json={"jsonrpc": "2.0", "id": message["id"], "result": shared | result})

    return httpx2.AsyncClient(transport=httpx2.MockTransport(handle))
