"""Each problem with a value is reported exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mcp_pool import (
    ClientCallbacks,
    ConfigError,
    HealthCheck,
    HttpServer,
    InProcessServer,
    RestartPolicy,
    SseServer,
    StdioServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG: Any = object()
WRONG_FIELDS: dict[str, Any] = {
    "args": WRONG,
    "env": WRONG,
    "cwd": WRONG,
    "close_timeout": -1,
    "restart": WRONG,
    "health": WRONG,
    "required": 1,
    "mode": "other",
    "max_in_flight": 0,
    "max_message_size": 0,
    "include_tools": WRONG,
    "exclude_tools": [1],
    "retry_safe": "other",
    "callbacks": WRONG,
    "client_options": {"raise_exceptions": True},
}


def fields(make: Callable[[], object]) -> list[str]:
    """The invalid fields."""
    try:
        make()
    except ConfigError as error:
        return [field for field, _ in error.problems]
    return []


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_an_invalid_field_is_one_problem(field: str) -> None:
    assert fields(lambda: StdioServer("program", **{field: WRONG_FIELDS[field]})) == [field]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: StdioServer(WRONG), ["command"]),
        (lambda: StdioServer("program", env={"": "a", "A": WRONG}), ["env", "env"]),
        (lambda: StdioServer("program", client_options=WRONG), ["client_options"]),
        (lambda: StdioServer("program", client_options={"client_info": 1, "extensions": [1]}), ["client_options"]),
        (lambda: ClientCallbacks(sampling=WRONG), ["sampling"]),
        (lambda: HealthCheck(interval=0, failure_threshold=0), ["interval", "failure_threshold"]),
        (lambda: RestartPolicy(jitter=2), ["jitter"]),
        (lambda: HttpServer(WRONG), ["url"]),
        (lambda: HttpServer("http://[::"), ["url"]),
        (lambda: HttpServer("ftp://host"), ["url"]),
        (lambda: SseServer("http://host", headers=WRONG), ["headers"]),
        (lambda: SseServer("http://host", headers={"a name": "b", "Ä": "c"}), ["headers", "headers"]),
        (lambda: SseServer("http://host", auth=WRONG), ["auth"]),
        (lambda: InProcessServer(WRONG), ["server"]),
    ],
)
def test_each_mistake_is_reported(make: Callable[[], object], expected: list[str]) -> None:
    assert fields(make) == expected


def test_a_valid_spec_has_no_problems() -> None:
    assert fields(lambda: InProcessServer(calculator())) == []
