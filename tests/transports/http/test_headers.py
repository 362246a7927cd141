"""Headers from a function: it is called once per request, in the caller's context, and its failures are contained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import httpx2
import pytest
from mcp import MCPError

from helpers.calls import Outcome, words
from helpers.common import connection_of, eventually
from helpers.http import arrival, arrived, fault, ran, raw_server
from helpers.http_calls import BOUND, shown
from helpers.user_code import stands
from mcp_pool import (
    BackingOff,
    CallTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    Failed,
    HttpServer,
    HttpStatusError,
    MCPPool,
    RestartPolicy,
    SseServer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path

    from loguru import Message

    from helpers.http import ServerProcess

SECRET = "tulip-7f3a9c"
LATER = RestartPolicy(initial_delay=60.0, jitter=0.0)
SOON = RestartPolicy(initial_delay=0.01)


@attrs.frozen
class Wire:
    """A transport and a protocol."""

    kind: type[HttpServer | SseServer]
    options: tuple[str, ...] = ()

    def spec(self, server: ServerProcess, headers: Any, **fields: Any) -> Any:
        url = server.sse_url if self.kind is SseServer else server.url
        return self.kind(url, headers=headers, **fields)


MODERN, LEGACY, SSE = Wire(HttpServer, ("--modern",)), Wire(HttpServer), Wire(SseServer)
on_each_wire = pytest.mark.parametrize("wire", [MODERN, LEGACY, SSE], ids=["modern", "legacy", "sse"])


class Tokens:
    """Returns a new token for each request."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> dict[str, str]:
        self.count += 1
        return {"Authorization": f"Bearer {self.token(self.count)}"}

    async def later(self) -> dict[str, str]:
        """The same, as an async function."""
        await anyio.lowlevel.checkpoint()
        return self()

    @staticmethod
    def token(number: int) -> str:
        return f"token-{number:06}"

    def each_once(self, ledger: Path) -> bool:
        """Whether each token was sent with exactly one request."""
        seen = sorted(line["auth"] for line in arrived(ledger))
        return seen == [f"Bearer {self.token(number)}" for number in range(1, self.count + 1)]


@attrs.define(eq=False)
class Changing:
    """Calls another function, which the test sets."""

    now: Any = dict

    def __call__(self) -> Any:
        return self.now()


# The headers of each request


@on_each_wire
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("borrows", [False, True], ids=["own client", "borrowed client"])
async def test_each_request_has_the_headers_that_the_function_returns_for_it(
    wire: Wire, is_async: bool, borrows: bool, tmp_path: Path
) -> None:
    ledger, tokens = tmp_path / "ledger", Tokens()
    async with (
        raw_server(*wire.options, ledger=ledger) as server,
        httpx2.AsyncClient(headers={"Authorization": "of the client"}) as client,
        MCPPool() as pool,
    ):
        headers = tokens.later if is_async else tokens
        await pool.connect("s", wire.spec(server, headers, http_client=client if borrows else None))
        for _ in range(3):
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        await connection_of(pool, "s").probe()
        if wire != MODERN:
            await arrival(ledger, "GET")
        await pool.disconnect("s")
    verbs = {line["verb"] for line in arrived(ledger)}
    assert verbs == {MODERN: {"POST"}, LEGACY: {"GET", "POST", "DELETE"}, SSE: {"GET", "POST"}}[wire]
    assert len(arrived(ledger, tool="echo")) == 3
    assert tokens.each_once(ledger)


@on_each_wire
async def test_a_token_that_changes_needs_no_new_spec_and_no_new_connection(wire: Wire) -> None:
    token = "first-1"
    async with raw_server(*wire.options, "--token", token) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, lambda: {"Authorization": f"Bearer {token}"}))
        for token in ("second-2", "third-3"):
            await server.order(options={"token": [token]})
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert stands(pool)


@on_each_wire
async def test_a_redirect_that_is_followed_counts_as_a_new_request(wire: Wire, tmp_path: Path) -> None:
    ledger, tokens = tmp_path / "ledger", Tokens()
    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, tokens))
        place = "/mcp"
        if wire == SSE:
            (session,) = (await server.order())["sessions"]
            place = f"/messages?session_id={session}"
        await server.misbehave(fault("redirect", place, on="tools/call:echo", times=1))
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        if wire == LEGACY:
            await arrival(ledger, "GET")
    assert len({line["auth"] for line in arrived(ledger, tool="echo")}) == 2
    assert tokens.each_once(ledger)


@on_each_wire
async def test_a_headers_function_that_fails_on_a_redirect_fails_only_its_call_which_has_not_run(
    wire: Wire, tmp_path: Path
) -> None:
    ledger, count = tmp_path / "ledger", 0

    def once() -> dict[str, str]:
        nonlocal count
        count += 1
        if count == 2:
            raise PermissionError("no token")
        return {}

    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, as_now))
        await server.misbehave(fault("redirect", "/elsewhere", on="tools/call:echo"))
        async with held(pool, ledger, check=False):
            error = (await doing(once, pool)).error
            assert isinstance(error, ConnectionLost)
            assert "raised PermissionError" in error.reason
            assert not error.may_have_run
        assert len(arrived(ledger, tool="echo")) == 1
    assert not ran(ledger, "echo")


class Twice(httpx2.Auth):
    """An auth flow that sends each call twice."""

    requires_response_body = True

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        yield request
        if b"tools/call" in request.content:
            yield request


async def test_a_request_that_an_auth_flow_sends_again_keeps_its_headers(tmp_path: Path) -> None:
    ledger, tokens = tmp_path / "ledger", Tokens()
    async with raw_server("--modern", ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", MODERN.spec(server, tokens, auth=Twice()))
        count = tokens.count
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert tokens.count == count + 1
    first, second = arrived(ledger, tool="echo")
    assert first["auth"] == second["auth"] == f"Bearer {tokens.token(count + 1)}"


@pytest.mark.parametrize("wire", [LEGACY, SSE], ids=["legacy", "sse"])
async def test_the_ping_that_checks_a_session_has_its_own_headers(wire: Wire, tmp_path: Path) -> None:
    ledger, tokens = tmp_path / "ledger", Tokens()
    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, lambda: {**tokens(), "Content-Type": "text/plain"}))
        await server.misbehave(fault("status", 400, on="tools/call:echo", times=1))
        with pytest.raises(HttpStatusError):
            await pool.call_tool("s__echo", {"text": "hello"})
        await arrival(ledger, "ping")
        await arrival(ledger, "GET")
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert stands(pool)
    (ping,) = arrived(ledger, "ping")
    assert ping["headers"]["content-type"] == "application/json"
    assert tokens.each_once(ledger)


OWN = {
    "Accept": "text/html",
    "Cache-Control": "max-age=1",
    "Content-Type": "text/plain",
    "Mcp-Method": "of/mine",
    "Mcp-Name": "mine",
    "Mcp-Protocol-Version": "1999-12-31",
    "User-Agent": "mine",
    "X-Mine": "mine",
}


@on_each_wire
@pytest.mark.parametrize("borrows", [False, True], ids=["own client", "borrowed client"])
async def test_a_function_can_replace_the_same_headers_as_a_mapping(wire: Wire, borrows: bool, tmp_path: Path) -> None:
    seen: list[Any] = []
    for number, headers in enumerate((OWN, lambda: OWN)):
        ledger = tmp_path / str(number)
        async with (
            raw_server(*wire.options, ledger=ledger) as server,
            httpx2.AsyncClient(headers={"X-Mine": "of the client"}) as client,
            MCPPool() as pool,
        ):
            await pool.connect("s", wire.spec(server, headers, http_client=client if borrows else None))
            assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
            if wire != MODERN:
                await arrival(ledger, "GET")
            await pool.disconnect("s")
        seen.append(
            sorted(
                (line["verb"], line["method"] or "", sorted((name, line["headers"].get(name.lower())) for name in OWN))
                for line in arrived(ledger)
            )
        )
    assert seen[0] == seen[1]
    assert "text/plain" not in {dict(line[2])["Content-Type"] for line in seen[1] if line[0] == "POST"}
    assert {dict(line[2])["X-Mine"] for line in seen[1]} == {"mine"}


USER: ContextVar[str] = ContextVar("user", default="the service")


@on_each_wire
async def test_the_function_is_called_in_the_context_of_the_caller(wire: Wire, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    async def call_as(user: str) -> None:
        USER.set(user)
        await pool.call_tool("s__echo", {"text": user})

    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, lambda: {"Authorization": USER.get()}))
        async with anyio.create_task_group() as group:
            for user in ("alice", "bob"):
                group.start_soon(call_as, user)
    calls = arrived(ledger, tool="echo")
    assert sorted(line["auth"] for line in calls) == ["alice", "bob"]
    assert {line["auth"] for line in arrived(ledger) if line not in calls} == {"the service"}


# Secrets


@on_each_wire
async def test_the_returned_values_are_masked(wire: Wire) -> None:
    rule = fault("error", [400, -32000, f"unknown key {SECRET}"], on="handshake")
    async with raw_server(*wire.options, faults=[rule]) as server, MCPPool() as pool:
        with pytest.raises(ConnectError, match=r"unknown key \*\*\*") as caught:
            await pool.connect("s", wire.spec(server, lambda: {"X-Key": f"Key {SECRET}"}))
        assert SECRET not in shown(caught.value)


@on_each_wire
async def test_the_returned_values_are_masked_before_the_request_is_sent(wire: Wire) -> None:
    tokens, masked = Tokens(), list[str]()

    async def look(request: httpx2.Request) -> None:
        if "s" in pool.servers and stands(pool):
            key, other = request.headers["x-key"], request.headers["x-other"]
            masked.append(connection_of(pool, "s").target.redactor.text(f"{key} {other}"))

    def headers() -> dict[str, str]:
        return {"X-Key": tokens()["Authorization"], "X-Other": SECRET}

    async with (
        raw_server(*wire.options) as server,
        httpx2.AsyncClient(event_hooks={"request": [look]}) as client,
        MCPPool() as pool,
    ):
        await pool.connect("s", wire.spec(server, headers, http_client=client))
        masked.clear()
        for _ in range(3):
            await pool.call_tool("s__echo", {"text": "hello"})
        assert len(masked) >= 3
        assert set(masked) == {"*** ***"}


@on_each_wire
async def test_headers_that_the_protocol_sets_are_not_masked(wire: Wire) -> None:
    async with raw_server(*wire.options) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, lambda: {"Content-Type": SECRET, "X-Key": SECRET}))
        redactor = connection_of(pool, "s").target.redactor
        assert redactor.text(f"application/json {SECRET}") == "application/json ***"


async def test_a_function_may_return_many_secrets() -> None:
    async with raw_server("--modern") as server, MCPPool() as pool:
        await pool.connect("s", MODERN.spec(server, lambda: {f"X-{n}": f"secret-{n:04}" for n in range(60)}))
        redactor = connection_of(pool, "s").target.redactor
        assert {redactor.text(f"secret-{n:04}") for n in range(60)} == {"***"}


# Functions that fail


class WithoutText(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")

    __repr__ = __str__


class Unreadable(Mapping[str, str]):
    """A mapping that raises when it is read."""

    def __getitem__(self, name: str) -> str:
        raise PermissionError(name)

    def __iter__(self) -> Iterator[str]:
        yield "X-Key"

    def __len__(self) -> int:
        return 1


def raising(error: BaseException) -> Any:
    def function() -> Any:
        raise error

    return function


def raising_later(error: BaseException) -> Any:
    async def function() -> Any:
        await anyio.lowlevel.checkpoint()
        raise error

    return function


WRONG: dict[str, tuple[Any, str]] = {
    "raises": (raising(PermissionError("no token")), "raised PermissionError"),
    "raises later": (raising_later(PermissionError("no token")), "raised PermissionError"),
    "raises a group": (raising(ExceptionGroup("all", [PermissionError("no token")])), "raised PermissionError"),
    "raises the unprintable": (raising(WithoutText()), "raised UnprintableError"),
    "raises a network error": (raising(httpx2.ConnectError("elsewhere")), "raised ConnectError"),
    "raises a status": (
        raising(
            httpx2.HTTPStatusError(
                "no", request=httpx2.Request("GET", f"http://a.test/{SECRET}"), response=httpx2.Response(401)
            )
        ),
        "raised HTTPStatusError",
    ),
    "wants an argument": (lambda identity: {}, "raised TypeError"),
    "unreadable": (Unreadable, "raised PermissionError"),
    "nothing": (lambda: None, "value: headers must be a mapping of names to values, not a NoneType)"),
    "a list": (lambda: [("X-Key", SECRET)], "value: headers must be a mapping of names to values, not a list)"),
    "a function": (lambda: dict, "value: headers must be a mapping of names to values, not a type)"),
    "no string": (lambda: {"X-Key": None}, "that of 'X-Key' is not)"),
    "a line": (lambda: {"X-Key": f"{SECRET}\r\nX-Other: {SECRET}"}, "that of 'X-Key' is not)"),
    "a name": (lambda: {f"X {SECRET}": "x"}, "value: headers must have names of letters, digits and hyphens"),
    "twice": (lambda: {"X-Key": SECRET, "x-key": SECRET}, "value: headers must not contain a header twice"),
    "of the wire": (lambda: {"Mcp-Session-Id": SECRET}, "which the transport sets for each request)"),
    "several": (lambda: {"X-Key": None, "Content-Length": "1"}, "that of 'X-Key' is not; headers must not contain"),
}
"""What a function does wrong, and how the error says so. One server serves all of them: starting it takes longest."""
NOW: ContextVar[Any] = ContextVar("now", default=dict)
"""The function that `as_now` calls in this context."""


def as_now() -> Any:
    """Call the function of the context."""
    return NOW.get()()


async def doing(function: Any, pool: MCPPool, tool: str = "echo", **options: Any) -> Outcome:
    """Call a tool with another headers function for this call only."""
    outcome = Outcome()

    async def call() -> None:
        NOW.set(function)
        await outcome.of(partial(pool.call_tool, f"s__{tool}", {"text": "hello"}, **options))

    with anyio.fail_after(BOUND):  # a call that is retried would never end
        async with anyio.create_task_group() as group:
            group.start_soon(call)
    return outcome


@asynccontextmanager
async def held(pool: MCPPool, ledger: Path, *, check: bool = True) -> AsyncIterator[None]:
    """Keep a call in flight during the block, and check that the first connection still works after it."""
    call = Outcome()
    async with anyio.create_task_group() as group:
        group.start_soon(call.of, pool.call_tool, "s__hold", {"key": "a"})
        await arrival(ledger, tool="hold")
        yield
        if check:
            assert words(await pool.call_tool("s__echo", {"text": "well"})) == "well"
        await pool.call_tool("s__release", {"key": "a"})
    assert words(call.value) == "a"
    assert stands(pool)


@on_each_wire
async def test_a_headers_function_that_fails_fails_only_its_call_which_has_not_run(wire: Wire, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, as_now))
        async with held(pool, ledger):
            for kind, (function, told) in WRONG.items():
                error = (await doing(function, pool)).error
                assert isinstance(error, ConnectionLost), kind
                assert "could not be sent the request (its headers function r" in error.reason, kind
                assert told in error.reason, kind
                assert "which has not run" in error.reason, kind
                assert error.reason.endswith(". The connection stays in use."), kind
                assert not error.may_have_run, kind
                assert SECRET not in shown(error), kind
                invalid = isinstance(error.cause, ConfigError)
                assert invalid == ("headers must" in error.reason), kind
                assert not invalid or {field for field, _ in error.cause.problems} == {"headers"}, kind
        assert ran(ledger, "echo") == 1


@on_each_wire
async def test_the_exception_of_the_function_is_the_cause(wire: Wire) -> None:
    mine = LookupError("no token in the drawer")
    async with raw_server(*wire.options) as server, MCPPool() as pool:
        with pytest.raises(ConnectError, match="its headers function raised LookupError") as caught:
            await pool.connect("s", wire.spec(server, raising(mine)))
        assert caught.value.cause is mine
        await pool.connect("s", wire.spec(server, as_now))
        error = (await doing(raising(mine), pool)).error
        assert isinstance(error, ConnectionLost)
        assert error.cause is mine


@on_each_wire
async def test_a_headers_function_that_fails_in_the_handshake_fails_the_attempt(wire: Wire) -> None:
    async with raw_server(*wire.options) as server, MCPPool() as pool:
        functions = {kind: Changing(function) for kind, (function, _) in WRONG.items()}
        for kind, function in functions.items():
            pool.add(kind, wire.spec(server, function, restart=LATER))
        for kind, (_, told) in WRONG.items():
            await eventually(lambda kind=kind: isinstance(pool.server(kind).state, BackingOff))
            error = pool.server(kind).last_error
            assert isinstance(error, ConnectError), kind
            assert error.retryable, kind
            assert told in error.reason, kind
            assert SECRET not in shown(error), kind
            functions[kind].now = dict
            await pool.server(kind).restart()
            assert words(await pool.server(kind).call_tool("echo", {"text": "hello"})) == "hello"


@on_each_wire
async def test_a_headers_function_that_hangs_ends_with_its_call_and_delays_no_other(wire: Wire, tmp_path: Path) -> None:
    ledger, begun, ended = tmp_path / "ledger", anyio.Event(), anyio.Event()

    async def hang() -> Any:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, as_now))
        async with held(pool, ledger), anyio.create_task_group() as group:
            group.start_soon(doing, hang, pool)
            await begun.wait()
            assert words(await pool.call_tool("s__echo", {"text": "meanwhile"})) == "meanwhile"
            group.cancel_scope.cancel()
        await ended.wait()
        error = (await doing(hang, pool, timeout=0.05)).error
        assert isinstance(error, CallTimeout)
        assert stands(pool)
    assert ran(ledger, "echo") == 2


@on_each_wire
async def test_a_headers_function_that_hangs_in_the_handshake_ends_with_the_attempt(wire: Wire) -> None:
    async with raw_server(*wire.options) as server, MCPPool() as pool:
        with pytest.raises(ConnectTimeout):
            await pool.connect("s", wire.spec(server, anyio.sleep_forever, connect_timeout=0.1))


@on_each_wire
async def test_failures_for_requests_without_a_caller_leave_the_connection_open(
    wire: Wire, tmp_path: Path, record_logs: list[Message]
) -> None:
    """For a notification, a request of the SDK's client, a probe, and the end of the session."""
    ledger, headers = tmp_path / "ledger", Changing()
    async with raw_server(*wire.options, ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, headers))
        if wire != MODERN:
            await arrival(ledger, "GET")
        call = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(call.of, partial(pool.call_tool, "s__silent", timeout=0.3)))
            await arrival(ledger, tool="silent")
            headers.now = raising(PermissionError("no token"))
            await call.ended.wait()
            with pytest.raises(MCPError):
                await pool.server("s").client.list_tools()
            with pytest.raises(MCPError):
                await connection_of(pool, "s").probe()
        assert isinstance(call.error, CallTimeout)
        assert stands(pool)
        if wire != MODERN:
            await eventually(lambda: [line for line in record_logs if "could not be sent a" in line])
        await pool.disconnect("s")
    assert not arrived(ledger, "notifications/cancelled")
    assert not arrived(ledger, "DELETE")


async def test_a_headers_function_that_keeps_the_stream_from_opening_for_a_while_loses_nothing(tmp_path: Path) -> None:
    ledger, headers, failed = tmp_path / "ledger", Changing(), anyio.Event()

    def fail() -> dict[str, str]:
        failed.set()
        raise PermissionError("no token")

    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", LEGACY.spec(server, headers, restart=SOON))
        await arrival(ledger, "GET")
        headers.now = fail
        await server.order(streams="end")
        await failed.wait()
        headers.now = dict
        await arrival(ledger, "GET", count=2)
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert stands(pool)


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_an_auth_flow_that_raises_before_it_sends_anything_fails_only_its_call(
    kind: type[Any], tmp_path: Path
) -> None:
    class Flow(httpx2.Auth):
        async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            NOW.get()()
            yield request

    ledger, wire = tmp_path / "ledger", Wire(kind)
    async with raw_server(ledger=ledger) as server, MCPPool() as pool:
        await pool.connect("s", wire.spec(server, None, auth=Flow()))
        async with held(pool, ledger):
            error = (await doing(raising(PermissionError("no token")), pool)).error
            assert isinstance(error, ConnectionLost)
            assert "could not be sent the request (PermissionError)" in error.reason
            assert not error.may_have_run
        assert ran(ledger, "echo") == 1


# Rejected credentials


class Anonymous(httpx2.Auth):
    """An auth flow that adds nothing."""

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        yield request


@on_each_wire
async def test_a_server_that_rejected_the_token_of_a_function_is_restarted_with_the_next_token(wire: Wire) -> None:
    token = "outdated-1"
    async with raw_server(*wire.options, "--token", SECRET) as server, MCPPool() as pool:
        pool.add("s", wire.spec(server, lambda: {"Authorization": f"Bearer {token}"}, restart=SOON))
        await eventually(lambda: isinstance(pool.server("s").state, Failed))
        error = pool.server("s").last_error
        assert isinstance(error, ConnectError)
        assert not error.retryable
        assert error.advice.startswith("Let the headers function return valid credentials, then call restart()")
        token = SECRET
        await pool.server("s").restart()
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


@on_each_wire
async def test_a_server_that_rejected_the_headers_of_a_spec_is_replaced_with_other_headers(wire: Wire) -> None:
    async with raw_server(*wire.options, "--token", SECRET) as server, MCPPool() as pool:
        pool.add("s", wire.spec(server, {"Authorization": "Bearer outdated-1"}, restart=SOON))
        await eventually(lambda: isinstance(pool.server("s").state, Failed))
        error = pool.server("s").last_error
        assert isinstance(error, ConnectError)
        assert error.advice.startswith("Correct headers or auth: pass a new spec to replace()")
        await pool.replace("s", wire.spec(server, {"Authorization": f"Bearer {SECRET}"}))
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"


@on_each_wire
@pytest.mark.parametrize("status", [401, 403])
async def test_a_call_that_is_rejected_advises_how_to_change_the_credentials(wire: Wire, status: int) -> None:
    async with raw_server(*wire.options) as server, httpx2.AsyncClient() as client, MCPPool() as pool:
        for number, (fields, advice) in enumerate(
            [
                ({"headers": dict}, "Let the headers function return valid credentials, then call restart()"),
                ({"headers": None, "auth": Anonymous()}, "Let auth or http_client send valid credentials, then call"),
                (
                    {"headers": None, "http_client": client},
                    "Let auth or http_client send valid credentials, then call",
                ),
                ({"headers": None, "auth": httpx2.BasicAuth("a", "b")}, "Correct headers or auth: pass a new spec"),
                ({"headers": {"A": "b"}}, "Correct headers or auth: pass a new spec"),
            ]
        ):
            await pool.connect(f"s{number}", wire.spec(server, **fields))
            await server.misbehave(fault("status", status, on="tools/call:echo", times=1))
            with pytest.raises(HttpStatusError) as caught:
                await pool.call_tool(f"s{number}__echo", {"text": "hello"})
            assert caught.value.advice.startswith(advice)
