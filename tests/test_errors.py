"""The errors that the pool raises: their base classes, their data, and copies for many callers."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import Any

import pytest
from mcp import MCPError

import mcp_pool
from mcp_pool import (
    CallTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpStatusError,
    InvalidResponse,
    MCPPoolError,
    NameCollision,
    PoolClosed,
    ServerUnavailable,
    ToolHeld,
    UnknownPrompt,
    UnknownServer,
    UnknownTool,
)
from mcp_pool._shared.exceptions import plain

FAMILIES: dict[type[MCPPoolError], tuple[type[Exception], ...]] = {
    InvalidResponse: (),
    CallTimeout: (TimeoutError,),
    ConfigError: (ValueError,),
    ConnectError: (),
    ConnectTimeout: (ConnectError, TimeoutError),
    ConnectionLost: (),
    HttpStatusError: (),
    NameCollision: (ConnectError, ValueError),
    PoolClosed: (),
    ServerUnavailable: (),
    ToolHeld: (),
    UnknownPrompt: (LookupError,),
    UnknownServer: (LookupError,),
    UnknownTool: (LookupError,),
}
"""Each error, and what else a caller can catch it as."""

WHERE: dict[str, Any] = {"server_id": "files", "generation": 2, "phase": "list", "attempt": 3}
END: dict[str, Any] = {"exit_status": -9, "stderr_tail": "no more"}

EXAMPLES: list[tuple[MCPPoolError, dict[str, Any]]] = [
    (error, data)
    for kind, data in [
        (MCPPoolError, WHERE),
        (InvalidResponse, {"server_id": "files", "generation": 2, "phase": "list", "may_have_run": True}),
        (CallTimeout, {"server_id": "files", "generation": 2, "may_have_run": False}),
        (ConfigError, {"server_id": "files", "problems": (("env", "is wrong"),)}),
        (ConnectError, {**WHERE, **END, "retryable": False}),
        (ConnectTimeout, {**WHERE, **END, "retryable": False}),
        (ConnectionLost, {**WHERE, **END, "may_have_run": True}),
        (
            HttpStatusError,
            {"server_id": "files", "phase": "call", "status": 503, "retry_after": 2.5, "may_have_run": True},
        ),
        (NameCollision, {**WHERE, "name": "files__read", "owner_id": "other"}),
        (PoolClosed, {}),
        (ServerUnavailable, {"server_id": "files", "generation": 2, "missing": ("files", "search")}),
        (ToolHeld, {"server_id": "files", "fingerprint": "1:abc"}),
        (UnknownPrompt, {}),
        (UnknownServer, {"server_id": "files"}),
        (UnknownTool, {}),
    ]
    for error in [kind("Something happened.", advice="Do something.", **data)]
]
examples = pytest.mark.parametrize(("error", "data"), EXAMPLES, ids=[type(error).__name__ for error, _ in EXAMPLES])


def test_all_errors_are_listed_here() -> None:
    public = {value for value in vars(mcp_pool).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert public == {MCPPoolError, *FAMILIES}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_error_has_the_common_base_class_and_its_own_families(kind: type[MCPPoolError]) -> None:
    assert issubclass(kind, (MCPPoolError, Exception))
    assert all(issubclass(kind, family) for family in (MCPPoolError, *FAMILIES[kind]))


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind not in (CallTimeout, ConnectTimeout)])
def test_only_the_timeout_errors_are_timeouts(kind: type[MCPPoolError]) -> None:
    assert not issubclass(kind, TimeoutError)


@examples
def test_an_error_carries_its_data(error: MCPPoolError, data: dict[str, Any]) -> None:
    assert {name: getattr(error, name) for name in data} == data


@examples
def test_an_error_reads_as_its_reason_then_its_advice_then_the_tail_of_standard_error(
    error: MCPPoolError, data: dict[str, Any]
) -> None:
    assert (error.reason, error.advice) == ("Something happened.", "Do something.")
    tail = "\nThe end of its standard error:\n    no more" if error.stderr_tail else ""
    assert str(error) == f"Something happened. Do something.{tail}"


@examples
def test_omitted_data_of_an_error_is_none(error: MCPPoolError, data: dict[str, Any]) -> None:
    bare = type(error)("A sentence.")
    assert [bare.server_id, bare.generation, bare.attempt, bare.cause] == [None] * 4


def test_a_cause_is_chained() -> None:
    cause = OSError("no such thing")
    error = ConnectError("It failed.", cause=cause)
    assert error.cause is cause
    assert error.__cause__ is cause


def test_a_traceback_shows_the_cause() -> None:
    shown = "".join(traceback.format_exception(ConnectError("It failed.", cause=OSError("no such thing"))))
    assert "OSError: no such thing" in shown
    assert "direct cause" in shown


@examples
def test_again_returns_an_equal_error(error: MCPPoolError, data: dict[str, Any]) -> None:
    again = error.again()
    assert again is not error
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {name: getattr(again, name) for name in data} == data


def test_again_returns_an_error_with_the_same_cause() -> None:
    cause = OSError("no such thing")
    assert ConnectError("It failed.", cause=cause).again().cause is cause


def test_again_returns_an_error_without_the_traceback() -> None:
    with pytest.raises(ConnectError) as caught:
        raise ConnectError("It failed.")
    assert caught.value.__traceback__ is not None
    assert caught.value.again().__traceback__ is None


def test_raising_the_copy_of_an_error_does_not_change_the_original() -> None:
    first = ConnectError("It failed.")
    for _ in range(3):
        with pytest.raises(ConnectError):
            raise first.again()
    assert first.__traceback__ is None


@examples
def test_an_error_can_be_sent_to_another_process(error: MCPPoolError, data: dict[str, Any]) -> None:
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is type(error)
    assert str(sent) == str(error)
    assert {name: getattr(sent, name) for name in data} == data


@examples
def test_an_error_can_be_copied(error: MCPPoolError, data: dict[str, Any]) -> None:
    assert {name: getattr(copy.deepcopy(error), name) for name in data} == data


def test_an_error_outside_a_group_is_unchanged() -> None:
    error = MCPError(-32000, "no")
    assert plain(error) is error


def test_a_group_is_reduced_to_its_first_error() -> None:
    error = ValueError("the one")
    group = BaseExceptionGroup("outer", [ExceptionGroup("inner", [error, OSError()]), KeyboardInterrupt()])
    assert plain(group) is error
