"""Exceptions from user code that cannot be copied, rendered or changed: only the request that raised them fails."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from helpers.callbacks import LOGS, TOOLS, asking, said
from helpers.calls import words
from helpers.common import eventually
from helpers.http import raw_server
from helpers.http_calls import PLACE, TOKEN, hides_its_secrets, in_flight
from helpers.user_code import BAD, PLACES, Flow, behind, is_bad, pool_with_a_good_server, stands
from mcp_pool import (
    BackingOff,
    ClientCallbacks,
    ConnectError,
    HttpServer,
    InProcessServer,
    MCPPoolError,
    RestartPolicy,
    SseServer,
    StdioServer,
)
from mcp_pool._shared.exceptions import chain, forget_frames
from mcp_pool._shared.guard import described, printable
from mcp_pool._shared.redaction import Redactor
from servers.in_process import calculator, raising_lifespan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loguru import Message

NOWHERE = "http://nowhere.invalid/mcp"
LATER = RestartPolicy(initial_delay=60.0, jitter=0.0)
"""So late that a test sees only one attempt."""


class OtherArguments(httpx2.RequestError):
    def __init__(self, realm: str, detail: str) -> None:
        super().__init__(f"{realm}: {detail}")


class RefusesToBeCopied(httpx2.RequestError):
    def __copy__(self) -> RefusesToBeCopied:
        raise TypeError("there is one of me")


class RefusesToBeReduced(httpx2.ReadError):
    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError("I hold a socket")


class WithoutText(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


class WithTextThatIsNone(Exception):
    def __str__(self) -> Any:
        return self.args[0]


class RequestErrorWithoutText(httpx2.RequestError):
    def __str__(self) -> str:
        raise KeyError("no words")


class WithoutRepr(Exception):
    def __repr__(self) -> str:
        raise KeyError("no words")


class WithoutNotes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise LookupError("no notes")


class Frozen(Exception):
    def __setattr__(self, name: str, _value: object) -> None:
        raise AttributeError(f"cannot assign to field {name!r}")


class FrozenRequestError(httpx2.RequestError):
    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "frozen"):
            raise AttributeError(f"cannot assign to field {name!r}")
        super().__setattr__(name, value)


class Incomparable(Exception):
    __hash__ = None

    def __eq__(self, _other: object) -> bool:
        raise TypeError("nothing is like me")


class NeitherTrueNorFalse(Exception):
    def __bool__(self) -> bool:
        raise ValueError("it is ambiguous")


class Empty(Exception):
    def __len__(self) -> int:
        return 0


class NoteWithoutText:
    def __str__(self) -> str:
        raise KeyError("no words")

    __repr__ = __str__


def with_a_bad_note() -> Exception:
    error = RuntimeError("it has a note")
    error.__notes__ = [NoteWithoutText()]
    return error


def from_one_without_text() -> Exception:
    error = RuntimeError("it has a cause")
    error.__cause__ = WithoutText()
    return error


def from_a_group() -> Exception:
    error = WithoutText()
    error.__cause__ = ExceptionGroup("both", [WithoutText(), Frozen()])
    return error


MAKERS: list[Callable[[], Exception]] = [
    lambda: OtherArguments("realm", "expired"),
    lambda: RefusesToBeCopied("once"),
    lambda: RefusesToBeReduced("once"),
    WithoutText,
    lambda: WithTextThatIsNone(None),
    lambda: RequestErrorWithoutText("hidden"),
    WithoutRepr,
    WithoutNotes,
    Frozen,
    lambda: FrozenRequestError("frozen"),
    Incomparable,
    NeitherTrueNorFalse,
    Empty,
    with_a_bad_note,
    from_one_without_text,
    from_a_group,
]
IDS = [
    "other arguments",
    "no copy",
    "no reduce",
    "no text",
    "no string",
    "no text of a request error",
    "no repr",
    "no notes",
    "frozen",
    "frozen request error",
    "incomparable",
    "ambiguous",
    "empty",
    "bad note",
    "bad cause",
    "bad group",
]
each_kind = pytest.mark.parametrize("make", MAKERS, ids=IDS)
# An exception whose `__repr__` raises breaks trio itself when it ends a task, with or without a pool.
FOR_A_TASK_OF_ITS_OWN = [make for make in MAKERS if make is not WithoutRepr]
each_place = pytest.mark.parametrize("place", PLACES)
each_mode = pytest.mark.parametrize("mode", ["auto", "legacy"])


def named(make: Callable[[], Exception]) -> str:
    """A pattern for the text about such an exception: its class, the class of its placeholder, or the error from changing it."""
    kind = type(printable(make()))
    return f"{kind.__name__}|AttributeError" if kind.__setattr__ is not BaseException.__setattr__ else kind.__name__


def raising(make: Callable[[], BaseException]) -> Any:
    """An async function that raises such an exception, whatever its arguments."""

    async def function(*_: object) -> Any:
        raise make()

    return function


# While connecting


@each_place
async def test_a_server_whose_connection_attempt_fails_in_user_code_stays_supervised(
    place: str, record_logs: list[Message]
) -> None:
    async with pool_with_a_good_server() as pool:
        for name, make in zip(IDS, MAKERS, strict=True):
            async with behind(NOWHERE, place, raising(make), restart=LATER) as spec:
                pool.add(name, spec)
                await eventually(lambda name=name: isinstance(pool.server(name).state, BackingOff))
                error = pool.server(name).last_error
                assert isinstance(error, ConnectError)
                assert re.search(named(make), str(error))
                assert [each for each in record_logs if each.record["level"].name == "WARNING" and str(error) in each]
        assert pool.servers.keys() > set(IDS)


@pytest.mark.parametrize("kind", [HttpServer, SseServer])
async def test_a_connect_that_fails_in_user_code_raises_a_connect_error(kind: type[HttpServer | SseServer]) -> None:
    async with pool_with_a_good_server() as pool:
        for make in MAKERS:
            with pytest.raises(ConnectError, match=named(make)):
                await pool.connect("s", kind(NOWHERE, auth=Flow(raising(make))))
            assert pool.connected_count == 1


async def test_an_attempt_that_raises_an_unexpected_error_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **_options: object) -> ConnectError:
        raise ZeroDivisionError("of the package")

    monkeypatch.setattr("mcp_pool.connection.connect.explain", broken)
    async with pool_with_a_good_server() as pool:
        with pytest.raises(ConnectError, match="failed unexpectedly with ZeroDivisionError") as caught:
            await pool.connect("bad", StdioServer("no-such-program-anywhere"))
        assert isinstance(caught.value.cause, ZeroDivisionError)


@each_mode
async def test_an_in_process_server_whose_lifespan_fails_raises_a_connect_error(mode: Any) -> None:
    async with pool_with_a_good_server() as pool:
        for number, make in enumerate(FOR_A_TASK_OF_ITS_OWN):
            with pytest.raises(ConnectError):
                await pool.connect("s", InProcessServer(raising_lifespan(error=make()), mode=mode))
            pool.add(f"t{number}", InProcessServer(raising_lifespan(error=make()), mode=mode, restart=LATER))
        others = [server_id for server_id in pool.servers if server_id != "good"]
        assert len(others) == len(FOR_A_TASK_OF_ITS_OWN)
        await eventually(lambda: all(isinstance(pool.server(each).state, BackingOff) for each in others))


# While connected


@each_place
async def test_a_call_that_fails_in_user_code_disturbs_no_other_and_leaves_the_connection_in_use(
    place: str, tmp_path: Path
) -> None:
    ledger, made = tmp_path / "ledger", list[Any]()

    async def trouble(request: httpx2.Request) -> None:
        if is_bad(request):
            error = made[-1]()
            raise error

    async with (
        raw_server(ledger=ledger) as server,
        behind(server.url, place, trouble) as spec,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", spec)
        async with in_flight(pool, ledger, count=1):
            for make in MAKERS:
                made.append(make)
                with pytest.raises(MCPPoolError) as caught:
                    await pool.call_tool("s__echo", {"text": BAD})
                assert re.search(named(make), str(caught.value))
                assert words(await pool.call_tool("s__echo", {"text": "fine"})) == "fine"
        assert stands(pool)


@pytest.mark.parametrize("wire", ["legacy stdio", "modern in process"])
async def test_a_callback_that_fails_fails_only_its_own_request(wire: str) -> None:
    made, told = list[Any](), list[object]()

    async def function(*_: object) -> Any:
        error = made[-1]()
        raise error

    async def logging(params: object) -> None:
        told.append(params)
        error = made[-1]()
        raise error

    callbacks = ClientCallbacks(**dict.fromkeys(TOOLS, function), logging=logging, message=function)
    async with pool_with_a_good_server() as pool:
        await pool.connect("s", asking(wire, callbacks=callbacks, client_options=LOGS))
        for make in MAKERS:
            made.append(make)
            for tool in TOOLS.values():
                assert "error" in (await said(pool, tool)).lower()
            assert await said(pool, "tell", arguments={"count": 2}) == "told"
            await eventually(lambda: len(told) == 2 * len(made))
        assert stands(pool)


async def test_a_progress_function_that_fails_fails_no_call() -> None:
    async with pool_with_a_good_server() as pool:
        for make in MAKERS:
            result = await pool.call_tool("good__progress", {"n": 2}, progress=raising(make))
            assert words(result) == "2 steps done"


@each_mode
async def test_a_tool_of_an_in_process_server_that_fails_fails_only_its_own_call(mode: Any) -> None:
    server = calculator()

    @server.tool("break")
    def break_down() -> None:
        raise WithoutText

    async with pool_with_a_good_server() as pool:
        await pool.connect("s", InProcessServer(server, mode=mode))
        assert "error" in (await said(pool, "break")).lower()
        assert await said(pool, "echo", arguments={"text": "fine"}) == "fine"
        assert stands(pool)


# While closing


@each_mode
async def test_a_lifespan_that_fails_at_its_end_does_not_keep_the_block_from_ending(
    mode: Any, record_logs: list[Message]
) -> None:
    async with pool_with_a_good_server() as pool:
        for number, make in enumerate(FOR_A_TASK_OF_ITS_OWN):
            await pool.connect("s", InProcessServer(raising_lifespan(at_end=True, error=make()), mode=mode))
            assert await pool.disconnect("s")
            await pool.connect(f"t{number}", InProcessServer(raising_lifespan(at_end=True, error=make()), mode=mode))
    assert not [message for message in record_logs if message.record["level"].name == "ERROR"]


# Stored and shown


@each_kind
def test_an_error_from_user_code_can_be_described_redacted_and_stored(make: Callable[[], Exception]) -> None:
    assert type(make()).__name__ in described(make())
    assert Redactor.of([TOKEN]).error(make()) is not None
    forget_frames(make())


def test_the_causes_of_an_error_that_is_falsy_are_found() -> None:
    error, first = Empty(), ValueError("first")
    error.__context__ = first
    assert list(chain(error)) == [error, first]
    error.__cause__ = last = ValueError("last")
    assert list(chain(error)) == [error, last]


# Secrets in them


def note_of_its_own() -> Exception:
    error = ValueError("refused")
    error.add_note(f"the token was {TOKEN}")
    return error


def note_of_a_cause() -> Exception:
    error = RuntimeError("refused")
    error.__cause__ = note_of_its_own()
    return error


def note_of_the_cause_of_an_empty_error() -> Exception:
    empty = Empty()
    empty.__context__ = note_of_its_own()
    error = RuntimeError("refused")
    error.__cause__ = empty
    return error


def note_that_is_no_list() -> Exception:
    error = ValueError("refused")
    error.__notes__ = f"the token was {TOKEN}"
    return error


def note_in_a_mapping() -> Exception:
    error = ValueError("refused")
    error.__notes__ = {"the token": TOKEN}
    return error


def note_of_a_request_error() -> Exception:
    error = OtherArguments("realm", "expired")
    error.add_note(f"the token was {TOKEN}")
    return error


def text_of_one_that_cannot_be_copied() -> Exception:
    return OtherArguments("realm", f"the token was {TOKEN}")


def text_of_the_cause_of_an_empty_error() -> Exception:
    empty = Empty()
    empty.__cause__ = ValueError(TOKEN)
    return empty


SECRETIVE = [
    note_of_its_own,
    note_of_a_cause,
    note_of_the_cause_of_an_empty_error,
    note_that_is_no_list,
    note_in_a_mapping,
    note_of_a_request_error,
    text_of_one_that_cannot_be_copied,
    text_of_the_cause_of_an_empty_error,
]


@pytest.mark.parametrize("make", SECRETIVE)
async def test_a_secret_in_an_error_from_user_code_is_not_in_the_error_that_is_raised(
    make: Callable[[], Exception],
) -> None:
    async def trouble(request: httpx2.Request) -> None:
        if not calls_only or is_bad(request):
            raise make()

    async with raw_server() as server, pool_with_a_good_server() as pool:
        url, headers, calls_only = f"{server.origin}/{PLACE}/mcp", {"Authorization": f"Bearer {TOKEN}"}, False
        spec = HttpServer(url, headers=headers, auth=Flow(trouble), restart=LATER)
        with pytest.raises(ConnectError) as refused:
            await pool.connect("s", spec)
        assert hides_its_secrets(refused.value)
        pool.add("s", spec)
        await eventually(lambda: isinstance(pool.server("s").state, BackingOff))
        assert hides_its_secrets(pool.server("s").last_error)
        calls_only = True
        await pool.connect("s", spec)
        with pytest.raises(MCPPoolError) as failed:
            await pool.call_tool("s__echo", {"text": BAD})
        assert hides_its_secrets(failed.value)
