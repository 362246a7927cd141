"""What is wrong with a value is told once, however the problems are gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mcp_pool import ClientCallbacks, HealthCheck, HttpServer, InProcessServer, RestartPolicy, SseServer, StdioServer
from servers.in_process import calculator

if TYPE_CHECKING:
    from mcp_pool import ServerConfig

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


def fields(spec: ServerConfig) -> list[str]:
    """The fields that are wrong."""
    return [field for field, _ in spec.problems()]


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_a_wrong_field_is_one_problem(field: str) -> None:
    assert fields(StdioServer("program", **{field: WRONG_FIELDS[field]})) == [field]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (StdioServer(WRONG), ["command"]),
        (StdioServer("program", env={"": "a", "A": WRONG}), ["env", "env"]),
        (StdioServer("program", client_options=WRONG), ["client_options"]),
        (StdioServer("program", client_options={"client_info": 1, "extensions": [1]}), ["client_options"]),
        (StdioServer("program", callbacks=ClientCallbacks(sampling=WRONG)), ["callbacks.sampling"]),
        (
            StdioServer("program", health=HealthCheck(interval=0, failure_threshold=0)),
            ["health.interval", "health.failure_threshold"],
        ),
        (StdioServer("program", restart=RestartPolicy(jitter=2)), ["restart.jitter"]),
        (HttpServer(WRONG), ["url"]),
        (HttpServer("http://[::"), ["url"]),
        (HttpServer("ftp://host"), ["url"]),
        (SseServer("http://host", headers=WRONG), ["headers"]),
        (SseServer("http://host", headers={"a name": "b", "Ä": "c"}), ["headers", "headers"]),
        (SseServer("http://host", auth=WRONG), ["auth"]),
        (InProcessServer(WRONG), ["server"]),
    ],
)
def test_each_mistake_is_told(spec: ServerConfig, expected: list[str]) -> None:
    assert fields(spec) == expected


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert fields(InProcessServer(calculator())) == []
