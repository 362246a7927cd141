"""Specs are values: they compare by content, are immutable, show no secrets, and fill in defaults."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import attrs
import pytest
from mcp_types import Implementation

from mcp_pool import (
    DEFAULT,
    ClientCallbacks,
    ConfigError,
    HealthCheck,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    StdioServer,
)
from mcp_pool.config.settings import Limits, Settings
from mcp_pool.config.target import Target
from servers.in_process import calculator

POOL = Settings(
    connect_timeout=1,
    open_timeout=2,
    wait_timeout=3,
    call_timeout=4,
    max_call_time=5,
    close_timeout=6,
    restart=RestartPolicy(initial_delay=7),
    health=None,
    max_connecting=16,
    launch_limits={},
    callbacks=None,
)

DIFFERENCES: dict[str, Any] = {
    "command": "other",
    "args": ["-x"],
    "env": {"A": "b"},
    "cwd": "/",
    "max_message_size": 1,
    "connect_timeout": 1,
    "call_timeout": None,
    "max_call_time": 1,
    "close_timeout": 1,
    "restart": RestartPolicy.never(),
    "health": None,
    "max_in_flight": 1,
    "retry_safe": "annotated",
    "on_changed": "hold",
    "pinned": {"echo": "1:abc"},
    "callbacks": ClientCallbacks(message=print),
    "required": True,
    "mode": "legacy",
    "include_tools": [],
    "exclude_tools": ["x"],
    "client_options": {"log_level": "error"},
}


def full() -> StdioServer:
    """A spec with something in each of its collections."""
    return StdioServer(
        "program",
        ["a", "b"],
        env={"A": "b", "C": "d"},
        cwd=Path("/"),
        include_tools=["x*"],
        exclude_tools=["*y"],
        client_options={"client_info": Implementation(name="me", version="1")},
    )


def test_specs_with_equal_contents_are_equal() -> None:
    assert full() == full()


def test_a_list_and_a_tuple_make_no_difference() -> None:
    assert StdioServer("program", ["a"], include_tools=["b"]) == StdioServer("program", ("a",), include_tools=("b",))


def test_the_order_of_variables_makes_no_difference() -> None:
    assert StdioServer("program", env={"A": "1", "B": "2"}) == StdioServer("program", env={"B": "2", "A": "1"})


def test_no_environment_and_an_empty_environment_differ() -> None:
    assert StdioServer("program") != StdioServer("program", env={})


def test_every_field_is_listed_here() -> None:
    assert {field.name for field in attrs.fields(StdioServer)} == DIFFERENCES.keys()


@pytest.mark.parametrize("field", DIFFERENCES)
def test_specs_that_differ_in_any_field_are_unequal(field: str) -> None:
    common: dict[str, Any] = {"command": "program"}
    if field == "pinned":
        common["on_changed"] = "hold"  # without which it has no effect
    assert StdioServer(**common | {field: DIFFERENCES[field]}) != StdioServer(**common)


def test_in_process_servers_are_equal_only_if_they_are_the_same_object() -> None:
    server = calculator()
    assert InProcessServer(server) == InProcessServer(server)
    assert InProcessServer(server) != InProcessServer(calculator())


def test_specs_of_different_kinds_are_unequal() -> None:
    other: Any = InProcessServer(calculator())
    assert StdioServer("program") != other


@pytest.mark.parametrize("field", DIFFERENCES)
def test_a_spec_is_immutable(field: str) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(full(), field, DIFFERENCES[field])


def test_changing_the_arguments_of_a_spec_does_not_change_the_spec() -> None:
    args, env, options, globs = ["a"], {"A": "b"}, {"log_level": "error"}, ["x"]
    spec = StdioServer("program", args, env=env, client_options=options, include_tools=globs)
    args.append("b")
    env["C"] = "d"
    options.clear()
    globs.clear()
    assert spec == StdioServer(
        "program", ["a"], env={"A": "b"}, client_options={"log_level": "error"}, include_tools=["x"]
    )


@pytest.mark.parametrize("field", ["env", "client_options"])
def test_the_collections_in_a_spec_are_immutable(field: str) -> None:
    with pytest.raises(TypeError):
        getattr(full(), field)["new"] = "value"


def test_changing_the_mapping_of_servers_does_not_change_the_pool() -> None:
    servers = {"files": StdioServer("program")}
    pool = MCPPool(servers)
    servers.clear()
    assert list(pool._servers) == ["files"]


def test_the_repr_of_a_spec_shows_only_its_program() -> None:
    assert repr(full()) == "StdioServer('program')"


def test_the_repr_of_an_in_process_spec_shows_the_class_of_its_server() -> None:
    assert repr(InProcessServer(calculator())) == "InProcessServer(MCPServer)"


def test_a_spec_has_the_documented_defaults() -> None:
    spec = StdioServer("program")
    assert (spec.args, spec.env, spec.cwd, spec.required, spec.mode) == ((), None, None, False, "auto")
    assert spec.max_message_size == 16 * 1024 * 1024
    assert {spec.connect_timeout, spec.call_timeout, spec.max_call_time, spec.close_timeout, spec.restart} == {DEFAULT}


def test_a_pool_has_the_documented_defaults() -> None:
    assert MCPPool()._supervisor.settings == Settings(
        connect_timeout=30,
        open_timeout=10,
        wait_timeout=30,
        call_timeout=60,
        max_call_time=3600,
        close_timeout=5,
        restart=RestartPolicy(
            initial_delay=0.5, multiplier=2, max_delay=60, jitter=0.5, stable_after=60, max_restarts=None
        ),
        health=HealthCheck(interval=30, timeout=10, failure_threshold=2),
        max_connecting=16,
        launch_limits={},
        callbacks=None,
    )


def test_an_omitted_setting_is_taken_from_the_pool() -> None:
    assert Target.of(POOL, "s", StdioServer("program")).limits == Limits(
        connect_timeout=1,
        call_timeout=4,
        max_call_time=5,
        close_timeout=6,
        restart=RestartPolicy(initial_delay=7),
        health=None,
        callbacks=ClientCallbacks(),
    )


def test_a_servers_own_setting_overrides_the_pools() -> None:
    spec = StdioServer(
        "program",
        connect_timeout=10,
        call_timeout=0,
        max_call_time=None,
        close_timeout=0,
        restart=RestartPolicy.never(),
        health=HealthCheck(interval=1),
    )
    assert Target.of(POOL, "s", spec).limits == Limits(
        connect_timeout=10,
        call_timeout=0,
        max_call_time=None,
        close_timeout=0,
        restart=RestartPolicy.never(),
        health=HealthCheck(interval=1),
        callbacks=ClientCallbacks(),
    )


def test_settings_are_filled_in_one_by_one() -> None:
    assert Target.of(POOL, "s", StdioServer("program", call_timeout=None)).limits == attrs.evolve(
        Target.of(POOL, "s", StdioServer("program")).limits, call_timeout=None
    )


def test_default_reads_as_its_name() -> None:
    assert repr(DEFAULT) == "DEFAULT"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda spec: pickle.loads(pickle.dumps(spec))])
def test_a_spec_can_be_copied_pickled_and_hashed(copied: Any) -> None:
    spec = attrs.evolve(full(), callbacks=ClientCallbacks(message=print), restart=RestartPolicy.never())
    assert copied(spec) == spec
    assert hash(copied(spec)) == hash(spec)
    assert len({spec, copied(spec), StdioServer("other")}) == 2


def test_an_unpickled_spec_is_validated() -> None:
    rebuild, (kind, values) = StdioServer("program").__reduce__()
    with pytest.raises(ConfigError):
        rebuild(kind, {**values, "command": ""})
