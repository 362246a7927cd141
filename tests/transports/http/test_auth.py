"""Authorization over HTTP: static headers, any `httpx2.Auth`, and the SDK's OAuth against the SDK's own servers."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

from helpers.calls import Outcome, words
from helpers.common import PATIENCE, eventually
from helpers.http import SERVERS, ServerProcess, arrival, arrived, common, fault, raw_server, refused_port, running
from mcp_pool import ConnectError, ConnectionLost, ConnectionStatus, HttpServer, HttpStatusError, MCPPool, SseServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator
    from pathlib import Path

KINDS = [pytest.param(HttpServer, id="http"), pytest.param(SseServer, id="sse")]
PROTOCOLS = [pytest.param((), id="legacy"), pytest.param(("--modern",), id="modern")]
TOKEN = "tulip-7f3a9c"
CALLBACK = "http://127.0.0.1:1/callback"


def place(kind: type[Any], server: ServerProcess) -> str:
    """The URL of a server for a kind of spec."""
    return server.sse_url if kind is SseServer else server.url


class Bearer(httpx2.Auth):
    """Sends a token, or raises if there is none."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if self.token is None:
            raise PermissionError("nobody gave me a token")
        request.headers["Authorization"] = f"Bearer {self.token}"
        yield request


class Copying(Bearer):
    """Sends a copy of the request, as some signing flows do."""

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        headers = {**request.headers, "Authorization": f"Bearer {self.token}"}
        yield httpx2.Request(request.method, request.url, headers=headers, content=await request.aread())


BASIC = "Basic dXNlcjp3b3Jk"
WAYS: list[tuple[dict[str, Any], str]] = [
    ({"headers": {"Authorization": f"Bearer {TOKEN}"}}, f"Bearer {TOKEN}"),
    ({"auth": Bearer(TOKEN)}, f"Bearer {TOKEN}"),
    ({"auth": Copying(TOKEN)}, f"Bearer {TOKEN}"),
    ({"auth": httpx2.BasicAuth("user", "word")}, BASIC),
    ({"in_url": "user:word@"}, BASIC),
    ({"in_url": "user:word@", "auth": Bearer(TOKEN)}, f"Bearer {TOKEN}"),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_request_carries_the_credentials(kind: type[Any], tmp_path: Path) -> None:
    async with raw_server(ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        seen = 0
        for given, expected in WAYS:
            fields = dict(given)
            url = place(kind, server).replace("://", f"://{fields.pop('in_url', '')}")
            await pool.connect("s", kind(url, **fields))
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
            await pool.disconnect("s")
            requests = arrived(tmp_path / "ledger")[seen:]
            assert {line["verb"] for line in requests} >= {"GET", "POST"}
            assert {line["auth"] for line in requests} == {expected}
            seen += len(requests)


@pytest.mark.parametrize("options", PROTOCOLS)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_server_that_rejects_the_credentials_in_the_handshake_fails_and_says_why(
    options: tuple[str, ...], status: int
) -> None:
    async with raw_server(*options, faults=[fault("status", status, on="handshake")]) as server, MCPPool() as pool:
        pool.add("s", HttpServer(server.url, headers={"Authorization": f"Bearer {TOKEN}"}))
        await eventually(lambda: pool.get_status("s") is ConnectionStatus.ERROR)
        error = pool.server("s").last_error
        assert isinstance(error, ConnectError)
        assert not error.retryable
        assert f"HTTP status {status}" in str(error)
        assert "Correct headers or auth" in error.advice
        await server.misbehave()
        await pool.server("s").restart()
        assert words(await pool.call_tool("s__echo", {"text": "corrected"})) == "corrected"


@pytest.mark.parametrize("options", PROTOCOLS)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_call_that_is_unauthorized_fails_alone(options: tuple[str, ...], status: int, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(*options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, auth=Bearer(TOKEN)))
        await server.misbehave(fault("status", status, on="tools/call:echo", times=1))
        held = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, tool="hold")
            with pytest.raises(HttpStatusError) as caught:
                await pool.call_tool("s__echo", {"text": "refused"})
            assert caught.value.status == status
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("options", PROTOCOLS)
async def test_an_authorization_flow_that_fails_fails_its_own_call_only(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    ledger, auth = tmp_path / "ledger", Bearer(TOKEN)
    async with raw_server(*options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, auth=auth))
        held = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await arrival(ledger, tool="hold")
            auth.token = None
            with pytest.raises(ConnectionLost) as caught:
                await pool.call_tool("s__echo", {"text": "unauthorized"})
            auth.token = TOKEN
            await pool.call_tool("s__release", {"key": "a"})
        assert isinstance(caught.value.cause, PermissionError)
        assert not caught.value.may_have_run
        assert pool.server("s").generation == 1
    assert not arrived(ledger, tool="echo")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_copy_of_the_request_may_have_run_too(kind: type[Any], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server("--modern", ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", kind(place(kind, server), auth=Copying(TOKEN)))
        await server.misbehave(fault("reset", on="tools/call:echo", times=1, after=kind is HttpServer))
        with pytest.raises(ConnectionLost) as caught:
            await pool.call_tool("s__echo", {"text": "hello"})
        assert caught.value.may_have_run
    assert len(arrived(ledger, tool="echo")) == 1


async def test_an_authorization_server_that_is_unreachable_does_not_make_this_server_unreachable(
    tmp_path: Path,
) -> None:
    class Elsewhere(Bearer):
        async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            if self.token is None:
                yield httpx2.Request("POST", f"http://127.0.0.1:{port}/token?secret={TOKEN}")
            yield request

    auth = Elsewhere(TOKEN)
    with refused_port() as port:
        async with raw_server("--modern", ledger=tmp_path / "ledger") as server, MCPPool() as pool:
            await pool.connect("s", HttpServer(server.url, auth=auth))
            auth.token = None
            with pytest.raises(ConnectionLost) as caught:
                await pool.call_tool("s__echo", {"text": "hello"})
            assert isinstance(caught.value.cause, httpx2.ConnectError)
            assert caught.value.cause.request.url == f"http://127.0.0.1:{port}"
            assert not caught.value.may_have_run
            auth.token = TOKEN
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
            assert pool.server("s").generation == 1


class Person:
    """The storage of the SDK's provider, and the browser that opens the authorization page."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client: Any = None
        self.visits = 0
        self.willing = True
        self.answer = httpx2.QueryParams()

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        self.client = client_info

    async def visit(self, url: str) -> None:
        """Open the page, which redirects at once."""
        self.visits += 1
        if not self.willing:
            raise PermissionError("not today")
        async with httpx2.AsyncClient(verify=False) as browser:
            self.answer = httpx2.URL((await browser.get(url)).headers["location"]).params

    async def come_back(self) -> AuthorizationCodeResult:
        """Return the code and the state of that redirect."""
        return AuthorizationCodeResult(**dict(self.answer))

    def provider(self, url: str) -> OAuthClientProvider:
        """The SDK's OAuth provider for a server."""
        metadata = OAuthClientMetadata(redirect_uris=[CALLBACK], client_name="tests")
        return OAuthClientProvider(url, metadata, self, self.visit, self.come_back)


@asynccontextmanager
async def guarded(ledger: Path | None = None) -> AsyncIterator[tuple[ServerProcess, Person, OAuthClientProvider]]:
    """A server behind OAuth, and its user."""
    command = [sys.executable, str(SERVERS / "oauth.py"), *common(ledger, None)]
    async with running(ServerProcess(command)) as server:
        person = Person()
        yield server, person, person.provider(server.url)


async def beginning_of_hold(server: ServerProcess) -> None:
    """Wait until the tool runs."""
    with anyio.fail_after(PATIENCE):
        while "hold" not in await server.order():
            await anyio.lowlevel.checkpoint()


async def echoes(pool: MCPPool, count: int = 10) -> list[Outcome]:
    """Call a tool many times concurrently."""
    outcomes = [Outcome() for _ in range(count)]
    async with anyio.create_task_group() as group:
        for outcome in outcomes:
            group.start_soon(outcome.of, pool.call_tool, "s__echo", {"text": "hello"})
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
async def test_a_user_authorizes_once_and_concurrent_calls_with_an_expired_token_cause_one_refresh(
    kind: type[Any],
) -> None:
    async with guarded() as (server, person, provider), MCPPool() as pool:
        for auth in (provider, person.provider(server.url)):
            await pool.connect("s", kind(place(kind, server), auth=auth))
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
            await pool.disconnect("s")
        await pool.connect("s", kind(place(kind, server), auth=provider))
        state = await server.order()
        assert (state["registered"], state["authorized"], state["exchanged"], person.visits) == (1, 1, 1, 1)
        assert "refreshed" not in state
        provider.context.token_expiry_time = 1  # long ago
        assert [words(outcome.value) for outcome in await echoes(pool)] == ["hello"] * 10
        state = await server.order()
        assert (state["refreshed"], person.visits, state["echo"]) == (1, 1, 12)
        assert pool.server("s").generation == 1


async def test_concurrent_calls_whose_token_is_rejected_cause_one_new_authorization() -> None:
    async with guarded() as (server, person, provider), MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, auth=provider))
        for visits, order in enumerate([{"revoke": True}, {"narrow": True}], 2):
            await server.order(**order)
            assert [words(outcome.value) for outcome in await echoes(pool)] == ["hello"] * 10
            assert person.visits == visits
        assert (await server.order())["echo"] == 20
        assert pool.server("s").generation == 1


async def test_a_failed_refresh_fails_only_the_calls_that_need_it() -> None:
    async with guarded() as (server, person, provider), MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, auth=provider))
        held = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await beginning_of_hold(server)
            await server.order(status=500, revoke=True)
            provider.context.token_expiry_time = 1
            person.willing = False
            for outcome in await echoes(pool):
                assert isinstance(outcome.error, ConnectionLost)
                assert isinstance(outcome.error.cause, OAuthFlowError | PermissionError)
            await server.order(status=None)
            person.willing = True
            await pool.call_tool("s__release", {"key": "a"})
        assert words(held.value) == "a"
        assert pool.server("s").generation == 1
        assert (await server.order()).get("echo") is None


async def test_a_slow_call_delays_no_other_and_an_unreachable_authorization_server_delays_few() -> None:
    async with guarded() as (server, _, provider), MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, auth=provider))
        held = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(held.of, pool.call_tool, "s__hold", {"key": "a"})
            await beginning_of_hold(server)
            await server.order(down=True)
            expiry, provider.context.token_expiry_time = provider.context.token_expiry_time, 1
            for outcome in await echoes(pool):
                assert isinstance(outcome.error, ConnectionLost)
                assert isinstance(outcome.error.cause, httpx2.ConnectError)
                assert not outcome.error.may_have_run
            provider.context.token_expiry_time = expiry
            # The SDK's provider on its own would hold its lock until the first call is answered.
            await pool.call_tool("s__release", {"key": "a"}, timeout=10)
        assert words(held.value) == "a"
        assert pool.server("s").generation == 1


@pytest.mark.parametrize(("renewing", "times"), [(True, 3), (False, 2)], ids=["renewing", "stopped"])
async def test_a_rejection_that_no_new_token_can_fix_is_passed_on(renewing: bool, times: int, tmp_path: Path) -> None:
    class Helpless(OAuthClientProvider):
        tokens = 0

        async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            self.tokens += renewing
            request.headers["Authorization"] = f"Bearer {self.tokens}"
            yield request

    async with raw_server("--modern", "--token", TOKEN, ledger=tmp_path / "ledger") as server, MCPPool() as pool:
        person = Person()
        auth = Helpless(server.url, person.provider(server.url).context.client_metadata, person)
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", HttpServer(server.url, auth=auth))
        assert not caught.value.retryable
    assert len(arrived(tmp_path / "ledger")) == times


USER: ContextVar[str] = ContextVar("user", default="the service")


class PerUser(httpx2.Auth):
    """Reads a context variable of the caller."""

    requires_request_body = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.others: set[str] = set()

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        if b"tools/call" in request.content:
            self.calls.append(USER.get())
        else:
            self.others.add(USER.get())
        yield request


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_a_call_is_authorized_in_the_context_of_its_caller(kind: type[Any]) -> None:
    auth = PerUser()

    async def call_as(user: str) -> None:
        USER.set(user)
        await pool.call_tool("s__echo", {"text": user})

    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", kind(server.sse_url if kind is SseServer else server.url, auth=auth))
        async with anyio.create_task_group() as group:
            for user in ("alice", "bob"):
                group.start_soon(call_as, user)
    assert sorted(auth.calls) == ["alice", "bob"]
    assert auth.others == {"the service"}
