"""Specifications are values: they compare by content, cannot change, show no secrets, and fill in defaults."""

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
    "callbacks": ClientCallbacks(message=print),
    "required": True,
    "mode": "legacy",
    "include_tools": [],
    "exclude_tools": ["x"],
    "client_options": {"log_level": "error"},
}


def full() -> StdioServer:
    """A specification with something in each of its collections."""
    return StdioServer(
        "program",
        ["a", "b"],
        env={"A": "b", "C": "d"},
        cwd=Path("/"),
        include_tools=["x*"],
        exclude_tools=["*y"],
        client_options={"client_info": Implementation(name="me", version="1")},
    )


def test_specifications_with_equal_contents_are_equal() -> None:
    assert full() == full()


def test_a_list_and_a_tuple_make_no_difference() -> None:
    assert StdioServer("program", ["a"], include_tools=["b"]) == StdioServer("program", ("a",), include_tools=("b",))


def test_the_order_of_variables_makes_no_difference() -> None:
    assert StdioServer("program", env={"A": "1", "B": "2"}) == StdioServer("program", env={"B": "2", "A": "1"})


def test_no_variables_and_an_empty_set_of_them_are_told_apart() -> None:
    assert StdioServer("program") != StdioServer("program", env={})


def test_every_field_is_listed_here() -> None:
    assert {field.name for field in attrs.fields(StdioServer)} == DIFFERENCES.keys()


@pytest.mark.parametrize("field", DIFFERENCES)
def test_specifications_that_differ_in_any_field_differ(field: str) -> None:
    assert StdioServer(**{"command": "program", field: DIFFERENCES[field]}) != StdioServer("program")


def test_in_process_servers_are_equal_only_if_they_are_the_same_object() -> None:
    server = calculator()
    assert InProcessServer(server) == InProcessServer(server)
    assert InProcessServer(server) != InProcessServer(calculator())


def test_specifications_of_different_kinds_differ() -> None:
    other: Any = InProcessServer(calculator())
    assert StdioServer("program") != other


@pytest.mark.parametrize("field", DIFFERENCES)
def test_a_specification_cannot_be_changed(field: str) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(full(), field, DIFFERENCES[field])


def test_what_a_specification_was_made_from_may_change() -> None:
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
def test_the_collections_of_a_specification_cannot_be_changed_either(field: str) -> None:
    with pytest.raises(TypeError):
        getattr(full(), field)["new"] = "value"


def test_what_the_servers_of_a_pool_were_given_in_may_change() -> None:
    servers = {"files": StdioServer("program")}
    pool = MCPPool(servers)
    servers.clear()
    assert list(pool._servers) == ["files"]


def test_a_specification_shows_its_program_and_nothing_else() -> None:
    assert repr(full()) == "StdioServer('program')"


def test_an_in_process_specification_shows_its_kind_of_server() -> None:
    assert repr(InProcessServer(calculator())) == "InProcessServer(MCPServer)"


def test_a_specification_has_the_documented_defaults() -> None:
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


def test_a_setting_that_was_left_out_is_that_of_the_pool() -> None:
    assert Target.of(POOL, "s", StdioServer("program")).limits == Limits(
        connect_timeout=1,
        call_timeout=4,
        max_call_time=5,
        close_timeout=6,
        restart=RestartPolicy(initial_delay=7),
        health=None,
        callbacks=ClientCallbacks(),
    )


def test_a_servers_own_setting_goes_before_that_of_the_pool() -> None:
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


def test_what_is_unpickled_is_checked() -> None:
    rebuild, (kind, values) = StdioServer("program").__reduce__()
    with pytest.raises(ConfigError):
        rebuild(kind, {**values, "command": ""})
