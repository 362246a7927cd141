"""What the package assumes about the internals of the SDK and httpx2: an upgrade that breaks it fails here."""

from __future__ import annotations

import inspect
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.sse import sse_client
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp_types import CONNECTION_CLOSED, CallToolResult, TextContent
from pydantic import ValidationError

from helpers.http import raw_server
from mcp_pool.connection.call_errors import BROKEN_RESULT
from mcp_pool.transports.http.authorization import SDK_PROVIDERS
from mcp_pool.transports.http.sse_stream import MAX_EVENT_SIZE
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mcp.shared.message import SessionMessage

CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


class Recording(httpx2.AsyncClient):
    """Records how the SDK's transports make and send requests."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.built: list[tuple[str, frozenset[str], str]] = []
        self.sent: list[tuple[str, str]] = []
        self.traced: list[str] = []

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        given = frozenset(name for name, value in options.items() if value is not None)
        self.built.append((method, given, CALLER.get()))
        return super().build_request(method, url, **options)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        async def trace(event: str, _info: object) -> None:
            self.traced.append(event)

        self.sent.append((request.method, CALLER.get()))
        request.extensions = {**request.extensions, "trace": trace}
        return await super().send(request, **options)


@pytest.fixture
async def posts(request: pytest.FixtureRequest) -> AsyncGenerator[tuple[Recording, Any]]:
    """The recording client of one of the SDK's HTTP transports, and a session over it."""
    async with raw_server() as server:
        client = Recording()
        if request.param == "http":
            transport: Any = streamable_http_client(server.url, http_client=client)
        else:
            transport = sse_client(server.sse_url, httpx_client_factory=lambda **_options: client)
        async with Client(transport, mode="legacy") as session:
            yield client, session
        await client.aclose()


on_each_http_transport = pytest.mark.parametrize("posts", ["http", "sse"], indirect=True)


@on_each_http_transport
async def test_a_context_variable_of_the_caller_reaches_the_http_client(posts: tuple[Recording, Any]) -> None:
    client, session = posts
    CALLER.set("me")
    await session.call_tool("echo", {"text": "hello"})
    assert ("POST", "me") in client.sent


@on_each_http_transport
async def test_messages_are_passed_by_the_json_keyword(posts: tuple[Recording, Any]) -> None:
    client, session = posts
    CALLER.set("me")
    await session.call_tool("echo", {"text": "hello"})
    given = [given for method, given, caller in client.built if (method, caller) == ("POST", "me")]
    assert given
    assert all("json" in names for names in given)


@on_each_http_transport
async def test_the_trace_says_when_a_request_starts_to_be_sent(posts: tuple[Recording, Any]) -> None:
    client, _ = posts
    assert any(event.endswith("send_request_headers.started") for event in client.traced)


async def test_a_request_is_written_in_the_task_of_its_caller() -> None:
    seen: list[str] = []

    class Noting:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def __aenter__(self) -> Any:
            await self.stream.__aenter__()
            return self

        async def __aexit__(self, *error: object) -> None:
            await self.stream.__aexit__(*error)

        async def send(self, item: SessionMessage) -> None:
            seen.append(CALLER.get())
            await self.stream.send(item)

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Transport:
        async def __aenter__(self) -> Any:
            from mcp.client._memory import InMemoryTransport

            self.inner = InMemoryTransport(calculator())
            read, write = await self.inner.__aenter__()
            return read, Noting(write)

        async def __aexit__(self, *error: object) -> None:
            await self.inner.__aexit__(*error)

    async with Client(Transport(), mode="legacy") as client:
        CALLER.set("me")
        seen.clear()
        await client.call_tool("add", {"a": 1, "b": 2})
    assert "me" in seen


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_result_that_breaks_its_tools_schema_raises_an_error_that_counts_as_an_invalid_result(
    mode: str,
) -> None:
    server = MCPServer("liar")

    @server.tool(structured_output=True)
    async def count() -> int:
        return 1

    async with Client(server, mode=mode) as client:
        await client.list_tools()
        wrong = CallToolResult(content=[TextContent(type="text", text="x")], structured_content={"result": "no number"})
        with pytest.raises(BROKEN_RESULT):
            await client.session.validate_tool_result("count", wrong)


async def test_a_client_whose_session_has_ended_says_connection_closed() -> None:
    async with Client(calculator(), mode="legacy") as client:
        session = client.session
    with pytest.raises((MCPError, RuntimeError)) as caught:
        await session.send_ping()
    if isinstance(caught.value, MCPError):
        assert (caught.value.error.code, caught.value.error.message) == (CONNECTION_CLOSED, "Connection closed")


@pytest.mark.parametrize("provider", [OAuthClientProvider, ClientCredentialsOAuthProvider])
def test_auth_providers_that_hold_a_lock_until_the_response_are_recognized_by_their_module(provider: type[Any]) -> None:
    assert any(kind.__module__.startswith(SDK_PROVIDERS) for kind in provider.__mro__)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (streamable_http_client, {"http_client", "terminate_on_close", "max_sse_event_size"}),
        (sse_client, {"httpx_client_factory"}),
        (get_default_environment, set[str]()),
    ],
)
def test_the_functions_of_the_sdk_accept_the_arguments_that_the_pool_passes(
    function: Callable[..., Any], names: set[str]
) -> None:
    assert names <= set(inspect.signature(function).parameters)


def test_the_longest_sse_event_is_the_one_that_httpx2_accepts() -> None:
    assert inspect.signature(httpx2.EventSource).parameters["max_event_size"].default == MAX_EVENT_SIZE


def test_validation_errors_are_not_session_errors() -> None:
    assert issubclass(ValidationError, ValueError)
    assert not issubclass(ValidationError, RuntimeError)


async def test_a_cancelled_scope_shows_in_the_effective_deadline_and_a_shield_hides_it() -> None:
    seen = list[float]()
    with anyio.CancelScope() as outer:
        with anyio.CancelScope(shield=True):
            outer.cancel()
            await anyio.lowlevel.checkpoint()
            seen.append(anyio.current_effective_deadline())
        seen.append(anyio.current_effective_deadline())
        await anyio.lowlevel.checkpoint()
    assert seen == [math.inf, -math.inf]
