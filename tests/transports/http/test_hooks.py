"""Borrowed clients with event hooks, and auth flows: an error that they raise for a status counts as that status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp import MCPError

from helpers.calls import words
from helpers.common import eventually
from helpers.http import fault, ran, raw_server
from helpers.http_calls import PLACE, TOKEN, shown
from mcp_pool import ConnectError, Failed, HttpServer, HttpStatusError, MCPPool, RestartPolicy, SseServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from helpers.http import ServerProcess

KINDS = [pytest.param(HttpServer, id="http"), pytest.param(SseServer, id="sse")]
SOON = RestartPolicy(initial_delay=0.01)
HIDDEN = (TOKEN, PLACE, "session_id=")


async def strictly(response: httpx2.Response) -> None:
    """Raise for the status, as many programs do."""
    response.raise_for_status()


async def reading(response: httpx2.Response) -> None:
    """The same, after reading the response."""
    if response.is_error:
        await response.aread()
    response.raise_for_status()


def lent(hook: Any = strictly) -> httpx2.AsyncClient:
    """A client with such a hook."""
    return httpx2.AsyncClient(event_hooks={"response": [hook]}, verify=False)


def secretive(kind: type[Any], server: ServerProcess, **fields: Any) -> Any:
    """The spec of a server with many secrets."""
    url = f"{server.origin}/{PLACE}/{'sse' if kind is SseServer else 'mcp'}"
    return kind(url, headers={"Authorization": f"Bearer {TOKEN}"}, restart=SOON, **fields)


class Strict(httpx2.Auth):
    """A flow that raises for the status of the response."""

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        (yield request).raise_for_status()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["hook", "flow"])
async def test_an_error_raised_for_a_status_fails_a_call_like_the_status_itself(kind: type[Any], by: str) -> None:
    async with raw_server() as server, lent() as client, MCPPool() as pool:
        fields = {"http_client": client} if by == "hook" else {"auth": Strict()}
        await pool.connect("s", secretive(kind, server, **fields))
        await server.misbehave(fault("status", 503, on="tools/call:echo", times=1))
        with pytest.raises(HttpStatusError, match="HTTP status 503") as caught:
            await pool.call_tool("s__echo", {"text": "hello"})
        assert caught.value.status == 503
        assert not [hidden for hidden in HIDDEN if hidden in shown(caught.value)]
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_hook_that_raises_for_rejected_credentials_in_the_handshake_fails_the_server(
    kind: type[Any], status: int
) -> None:
    rule = fault("status", status, on="GET" if kind is SseServer else "handshake")
    async with raw_server(faults=[rule]) as server, lent() as client, MCPPool() as pool:
        pool.add("s", secretive(kind, server, http_client=client))
        await eventually(lambda: pool.server("s").last_error)
        error = pool.server("s").last_error
        assert isinstance(pool.server("s").state, Failed)
        assert isinstance(error, ConnectError)
        assert not error.retryable
        assert f"HTTP status {status}" in str(error)
        assert not [hidden for hidden in HIDDEN if hidden in shown(error)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_is_not_retried_after_a_404_whose_body_a_hook_left_unread(kind: type[Any], tmp_path: Path) -> None:
    async with raw_server(ledger=tmp_path / "ledger") as server, lent() as client, MCPPool() as pool:
        await pool.connect("s", secretive(kind, server, http_client=client, mode="legacy"))
        await server.order(forget=True)
        with pytest.raises(HttpStatusError) as caught:
            await pool.call_tool("s__echo", {"text": "once"})
        assert (caught.value.status, caught.value.may_have_run) == (404, True)
        await eventually(lambda: pool.server("s").generation == 2)
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
    assert ran(tmp_path / "ledger", "echo") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_404_is_a_lost_session_if_a_hook_raises_for_it_after_reading_the_body(
    kind: type[Any], tmp_path: Path
) -> None:
    async with raw_server(ledger=tmp_path / "ledger") as server, lent(reading) as client, MCPPool() as pool:
        await pool.connect("s", secretive(kind, server, http_client=client, mode="legacy"))
        await server.order(forget=True)
        assert words(await pool.call_tool("s__echo", {"text": "again"})) == "again"
        assert pool.server("s").generation == 2
    assert ran(tmp_path / "ledger", "echo") == 1


async def test_a_body_read_by_a_hook_is_the_servers_answer() -> None:
    async with raw_server() as server, lent(reading) as client, MCPPool() as pool:
        await pool.connect("s", secretive(HttpServer, server, http_client=client))
        await server.misbehave(fault("error", [400, -32000, "its own words"], on="tools/call:echo", times=1))
        with pytest.raises(MCPError, match="its own words"):
            await pool.call_tool("s__echo")


def elsewhere(status: int) -> Any:
    """A hook that sends a request to another server first, and raises for its status."""

    async def hook(_response: httpx2.Response) -> None:
        request = httpx2.Request("POST", f"http://elsewhere.test/token?secret={TOKEN}")
        raise httpx2.HTTPStatusError(f"no {TOKEN}", request=request, response=httpx2.Response(status, request=request))

    return hook


async def by_hand(_response: httpx2.Response) -> None:
    """A hook that raises for a response without a request."""
    raise httpx2.HTTPStatusError("no", request=httpx2.Request("GET", "http://a.test"), response=httpx2.Response(401))


async def though_it_went_well(response: httpx2.Response) -> None:
    """A hook that raises for a successful response."""
    raise httpx2.HTTPStatusError(f"no {response.url}", request=response.request, response=response)


@pytest.mark.parametrize("hook", [elsewhere(401), by_hand, though_it_went_well], ids=["elsewhere", "by hand", "well"])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_raised_for_another_servers_status_fails_the_request_without_being_a_rejection(
    kind: type[Any], hook: Any
) -> None:
    async with raw_server() as server, lent(hook) as client, MCPPool() as pool:
        pool.add("s", secretive(kind, server, http_client=client))
        await eventually(lambda: pool.server("s").last_error)
        error = pool.server("s").last_error
        assert isinstance(error, ConnectError)
        assert error.retryable
        assert "HTTPStatusError" in str(error)
        assert "HTTP request was answered with status" in str(error.cause)
        assert not [hidden for hidden in HIDDEN if hidden in shown(error)]
        client.event_hooks = {}
        with anyio.fail_after(15):
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
