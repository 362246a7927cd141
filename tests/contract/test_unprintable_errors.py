"""Exceptions of user code that cannot be copied, printed or changed fail their own request or attempt, nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from mcp.server.mcpserver import MCPServer

from helpers.callbacks import TOOLS, Listener, asking, each_question, said
from helpers.calls import words
from helpers.common import eventually
from helpers.http import raw_server
from helpers.secrets import shown
from mcp_pool import (
    BackingOff,
    ConnectError,
    ConnectionStatus,
    HttpServer,
    InProcessServer,
    MCPPool,
    MCPPoolError,
    RestartPolicy,
    SseServer,
    StdioServer,
)
from mcp_pool._shared.exceptions import forget_frames
from mcp_pool._shared.guard import UNPRINTABLE, described, text_of
from mcp_pool._shared.redaction import RedactedError, Redactor
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

SLOW = RestartPolicy(initial_delay=60)
SECRET = "hunter-2-hunter-2"


class TakesOtherArguments(httpx2.RequestError):
    """An error of the HTTP client that `copy.copy` cannot make again."""

    def __init__(self, realm: str, detail: str) -> None:
        super().__init__(f"{realm}: {detail}")


class CannotBePrinted(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


class CannotBeShown(Exception):
    def __repr__(self) -> str:
        raise KeyError("no words")


class HasBrokenNotes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise KeyError("no notes")


class CannotBeChanged(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class CannotBeCopied(httpx2.ReadError):
    def __copy__(self) -> Any:
        raise TypeError("one of a kind")


ERRORS: list[Callable[[], Exception]] = [
    lambda: TakesOtherArguments("realm", "detail"),
    CannotBePrinted,
    CannotBeShown,
    HasBrokenNotes,
    CannotBeChanged,
    lambda: CannotBeCopied("broken"),
]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error()).__name__)


class Failing(httpx2.Auth):
    """Fails each request, or only those that carry a certain text."""

    def __init__(self, error: Callable[[], Exception], only: bytes = b"") -> None:
        self.error, self.only = error, only

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if self.only in request.content:
            raise self.error()
        yield request


class FailingTransport(httpx2.AsyncBaseTransport):
    def __init__(self, error: Callable[[], Exception]) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise self.error()


@each_error
@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_an_auth_flow_that_raises_it_fails_its_attempt_and_no_other_server(
    kind: type[HttpServer | SseServer], error: Callable[[], Exception]
) -> None:
    async with raw_server() as server, MCPPool({"good": InProcessServer(calculator())}, restart=SLOW) as pool:
        spec = kind(server.sse_url if kind is SseServer else server.url, auth=Failing(error))
        pool.add("bad", spec)
        await eventually(lambda: isinstance(pool.server("bad").state, BackingOff))
        assert isinstance(pool.server("bad").last_error, ConnectError)
        with pytest.raises(ConnectError):
            await pool.connect("worse", spec)
        assert words(await pool.call_tool("good__echo", {"text": "hello"})) == "hello"


@each_error
async def test_an_auth_flow_that_raises_it_during_a_call_fails_that_call_only(error: Callable[[], Exception]) -> None:
    async with raw_server() as server, MCPPool() as pool:
        await pool.connect("s", HttpServer(server.url, auth=Failing(error, only=b'"big"'), health=None))
        with pytest.raises(MCPPoolError):
            await pool.call_tool("s__big", {"n": 1})
        assert words(await pool.call_tool("s__echo", {"text": "hello"})) == "hello"
        assert pool.server("s").generation == 1


@each_error
async def test_a_borrowed_transport_that_raises_it_fails_its_attempt(error: Callable[[], Exception]) -> None:
    async with httpx2.AsyncClient(transport=FailingTransport(error)) as client, MCPPool() as pool:
        with pytest.raises(ConnectError):
            await pool.connect("s", HttpServer("http://host.test/mcp", http_client=client))
        assert await pool.connect("good", InProcessServer(calculator()))


# Without the one that cannot be shown: trio itself renders what passes its nurseries, and the SDK has one there.
@pytest.mark.parametrize(
    "error", [one for one in ERRORS if one is not CannotBeShown], ids=lambda error: type(error()).__name__
)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_lifespan_that_raises_it_fails_its_attempt(mode: str, error: Callable[[], Exception]) -> None:
    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        raise error()
        yield

    async with MCPPool({"good": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConnectError):
            await pool.connect("bad", InProcessServer(MCPServer("bad", lifespan=lifespan), mode=mode))
        assert words(await pool.call_tool("good__echo", {"text": "hello"})) == "hello"


@each_error
@each_question
async def test_a_callback_that_raises_it_fails_its_request_only(kind: str, error: Callable[[], Exception]) -> None:
    async def raising(*_arguments: Any) -> Any:
        raise error()

    spec = asking("legacy in process", callbacks=Listener().callbacks(**{kind: raising}))
    async with MCPPool({"s": spec}) as pool:
        assert "could not answer" in await said(pool, TOOLS[kind])
        others = [tool for other, tool in TOOLS.items() if other != kind]
        assert not [tool for tool in others if "error" in await said(pool, tool)]
        assert pool.get_status("s") is ConnectionStatus.CONNECTED


@each_error
async def test_a_progress_function_that_raises_it_changes_nothing(error: Callable[[], Exception]) -> None:
    async def raising(*_arguments: Any) -> None:
        raise error()

    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        await pool.call_tool("s__progress", {"n": 3}, progress=raising)
        assert pool.get_status("s") is ConnectionStatus.CONNECTED


@each_error
def test_it_can_be_described_redacted_and_kept(error: Callable[[], Exception]) -> None:
    assert type(error()).__name__ in described(error())
    assert Redactor.of([SECRET]).error(error()) is not None
    forget_frames(error())


def test_in_the_place_of_a_text_that_cannot_be_had_stands_another() -> None:
    assert text_of(CannotBePrinted()) == UNPRINTABLE
    assert text_of(ValueError("plain")) == "plain"


def test_a_secret_in_a_note_is_not_shown() -> None:
    error, cause = ValueError("outer"), OSError("inner")
    cause.add_note(f"the token was {SECRET}")
    error.__cause__ = cause
    redacted = Redactor.of([SECRET]).error(error)
    assert isinstance(redacted, RedactedError)
    assert SECRET not in shown(redacted)


async def test_what_breaks_an_attempt_and_nothing_accounts_for_is_a_failed_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_arguments: Any, **_options: Any) -> Any:
        raise ZeroDivisionError("of the package")

    monkeypatch.setattr("mcp_pool.connection.connect.explain", broken)
    with anyio.fail_after(60):
        async with MCPPool({"good": InProcessServer(calculator())}) as pool:
            with pytest.raises(ConnectError, match="broke off with ZeroDivisionError") as caught:
                await pool.connect("bad", StdioServer("no-such-program-anywhere"))
            assert isinstance(caught.value.cause, ZeroDivisionError)
            assert words(await pool.call_tool("good__echo", {"text": "hello"})) == "hello"
