"""An invalid argument raises a `ConfigError` that names the id and the field, before anything starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mcp_pool import DEFAULT, ConfigError, InProcessServer, MCPPool, RestartPolicy, StdioServer
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Iterator

anything: Any = object()
BEYOND_FLOATS = 10**400
NOT_A_TIME = [-1, -0.001, float("nan"), float("inf"), BEYOND_FLOATS, "1", True, anything]
HALF_A_PAIR = "\ud800"
"""A string that Python allows but that cannot be passed to a process."""


def stdio(field: str, *values: Any) -> Iterator[Any]:
    """Specs of stdio servers with an invalid value in one field, as parameters."""
    for value in values:
        make = partial(StdioServer, **{"command": "program", field: value})
        yield pytest.param(make, field, id=f"{field}={shortened(value)}")


def policy(field: str, *values: Any) -> Iterator[Any]:
    """The same, for a restart policy."""
    for value in values:
        yield pytest.param(partial(RestartPolicy, **{field: value}), field, id=f"restart.{field}={shortened(value)}")


def shortened(value: object) -> str:
    """A short text for a value, for test ids."""
    text = "an object" if value is anything else ascii(value)
    return text if len(text) < 20 else f"{text[:17]}..."


WRONG_SPECS = [
    *stdio("command", "", "  ", "a\0b", HALF_A_PAIR, b"program", None, 1, Path("program"), ["program"]),
    *stdio(
        "args", "-v", b"-v", None, {"-v"}, {"-v": 1}, iter(["-v"]), ["-v", 1], [None], ["a\0b"], [HALF_A_PAIR], [Path()]
    ),
    *stdio("env", [("A", "b")], "A=b", 1, {"A": 1}, {"A": None}, {1: "b"}, {"": "b"}, {"A=B": "c"}),
    *stdio("env", {"A\0": "b"}, {"A": "b\0"}, {"A": HALF_A_PAIR}, {HALF_A_PAIR: "b"}),
    *stdio("cwd", 1, b"/tmp", ["/tmp"], "a\0b", HALF_A_PAIR, Path("a\0b")),
    *stdio("max_message_size", 0, -1, 1.5, None, True, "16", DEFAULT),
    *stdio("connect_timeout", *NOT_A_TIME),
    *stdio("call_timeout", *NOT_A_TIME),
    *stdio("max_call_time", *NOT_A_TIME),
    *stdio("close_timeout", None, *NOT_A_TIME),
    *stdio("restart", None, 3, "never", RestartPolicy),
    *stdio("required", None, 1, "yes"),
    *stdio("on_changed", None, True, "holding"),
    *stdio("pinned", {"echo": "1:abc"}, ["echo"], {"echo": 1}, {1: "1:abc"}),
    *stdio("mode", None, "modern", "2025-11-25", "", 1, [], anything),
    *stdio("include_tools", "*", None, {"*"}, [1], ["a\0b"]),
    *stdio("exclude_tools", "*", None, {"*"}, [1], ["a\0b"]),
    *stdio("client_options", None, [], "x", {"mode": "auto"}, {"raise_exceptions": True}, {1: 2}, {"unheard_of": 1}),
    *policy("initial_delay", None, *NOT_A_TIME),
    *policy("max_delay", None, *NOT_A_TIME),
    *policy("stable_after", None, *NOT_A_TIME),
    *policy("multiplier", None, 0.999, *NOT_A_TIME),
    *policy("jitter", None, 1.001, *NOT_A_TIME),
    *policy("max_restarts", -1, 1.5, "1", True, float("inf"), anything),
    pytest.param(partial(InProcessServer, anything), "server", id="server=an object"),
    pytest.param(partial(InProcessServer, None), "server", id="server=None"),
    pytest.param(partial(InProcessServer, calculator, close_timeout=-1), "server", id="server=a function"),
    pytest.param(partial(InProcessServer, calculator(), mode="modern"), "mode", id="mode of an in-process server"),
]
NO_SPECS = [None, "program", ["program"], StdioServer, anything]
WRONG_IDS = ["", "a\nb", "tab\t", "\x00", "\x7f", HALF_A_PAIR, None, 1, b"files", ("files",)]
RIGHT_IDS = [" ", "a b", "Ω", "🦊", "a__b", "__", "x" * 1000, "../etc", "{}", "%s", "<red>"]


@pytest.mark.parametrize(("make", "field"), WRONG_SPECS)
def test_an_invalid_value_cannot_be_constructed(make: partial[Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert (caught.value.server_id, caught.value.field) == (None, field)
    assert str(caught.value).startswith(f"{make.func.__name__}: ")
    assert field in str(caught.value)


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        StdioServer("", env={"": "a"}, mode="other", max_in_flight=0)
    assert [field for field, _ in caught.value.problems] == ["command", "env", "max_in_flight", "mode"]
    assert all(" ".join(problem) in str(caught.value) for problem in caught.value.problems)


@pytest.mark.parametrize("spec", NO_SPECS, ids=shortened)
async def test_a_value_that_is_not_a_spec_starts_nothing_and_disturbs_nothing(spec: Any) -> None:
    with pytest.raises(ConfigError, match="'files': config must be"):
        MCPPool({"files": spec})
    async with MCPPool({"running": InProcessServer(calculator())}) as pool:
        before = pool.snapshot().servers
        with pytest.raises(ConfigError) as by_add:
            pool.add("files", spec)
        with pytest.raises(ConfigError) as by_connect:
            await pool.connect("files", spec)
        for error in (by_add.value, by_connect.value):
            assert (error.server_id, error.field) == ("files", "config")
        assert pool.get_status("files") is None
        assert pool.snapshot().servers == before


@pytest.mark.parametrize("server_id", WRONG_IDS, ids=ascii)
def test_an_id_that_is_not_printable_text_is_refused(server_id: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MCPPool({server_id: StdioServer("program")})
    assert caught.value.field == "server_id"
    assert repr(server_id) in str(caught.value)


@pytest.mark.parametrize("server_id", [*WRONG_IDS, []], ids=ascii)
async def test_an_invalid_id_starts_nothing(server_id: Any) -> None:
    async with MCPPool() as pool:
        with pytest.raises(ConfigError):
            pool.add(server_id, InProcessServer(calculator()))
        with pytest.raises(ConfigError):
            await pool.connect(server_id, InProcessServer(calculator()))
        assert pool.get_all_statuses() == {}


async def test_any_printable_id_is_valid() -> None:
    async with MCPPool({server_id: InProcessServer(calculator()) for server_id in RIGHT_IDS}) as pool:
        await pool.wait_ready()
        assert list(pool.servers) == RIGHT_IDS


@pytest.mark.parametrize(
    "field", ["connect_timeout", "open_timeout", "wait_timeout", "call_timeout", "max_call_time", "close_timeout"]
)
@pytest.mark.parametrize("value", [*NOT_A_TIME, DEFAULT], ids=shortened)
def test_an_invalid_time_is_an_error_when_the_pool_is_constructed(field: str, value: Any) -> None:
    """`DEFAULT` is invalid, too: there is no wider setting than the pool's."""
    with pytest.raises(ConfigError) as caught:
        MCPPool(**{field: value})
    assert (caught.value.server_id, caught.value.field) == (None, field)
    assert field in str(caught.value)


def test_close_timeout_must_have_a_limit() -> None:
    unbounded: Any = None
    with pytest.raises(ConfigError, match="close_timeout"):
        MCPPool(close_timeout=unbounded)


@pytest.mark.parametrize("value", [None, DEFAULT, 3, "never", RestartPolicy], ids=shortened)
def test_an_invalid_restart_policy_is_an_error_when_the_pool_is_constructed(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MCPPool(restart=value)
    assert caught.value.field == "restart"


@pytest.mark.parametrize(
    "limits",
    [
        *([], "npx", 2, anything, [("npx", 2)]),
        *({name: 1} for name in ("", "/usr/bin/npx", "npx.cmd", r"bin\npx", 1, None, b"npx", ("npx",))),
        *({"npx": slots} for slots in (0, -1, 1.5, "2", True, float("inf"), DEFAULT, anything)),
    ],
    ids=shortened,
)
def test_wrong_launch_limits_are_found_when_the_pool_is_made(limits: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MCPPool(launch_limits=limits)
    assert (caught.value.server_id, caught.value.field) == (None, "launch_limits")
    assert str(caught.value).startswith("MCPPool: launch_limits must ")


def test_all_that_is_wrong_with_launch_limits_is_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        MCPPool(launch_limits={"npx": 0, "uvx": 3, "/bin/npm": 1, "deno": -1}, max_connecting=0)
    told = [" ".join(problem) for problem in caught.value.problems]
    expected = ["max_connecting must", "that of 'npx' is 0", "not '/bin/npm'", "that of 'deno' is -1"]
    assert all(words in one for words, one in zip(expected, told, strict=True))


def test_the_launch_limits_that_a_pool_was_given_may_change() -> None:
    limits: dict[str, int | None] = {"deno": 3}
    settings = MCPPool(launch_limits=limits)._supervisor.settings
    limits["deno"] = 4
    assert settings.launch_limits["deno"] == 3


@pytest.mark.parametrize(
    "servers", [[], "files", StdioServer("program"), [("files", StdioServer("program"))]], ids=shortened
)
def test_servers_must_be_a_mapping(servers: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        MCPPool(servers)
    assert caught.value.field == "servers"


def test_all_times_but_close_timeout_may_be_unlimited() -> None:
    MCPPool(connect_timeout=None, open_timeout=None, wait_timeout=None, call_timeout=None, max_call_time=None)


@pytest.mark.parametrize("value", [0, 0.0, 0.001, 10**9])
def test_any_time_of_at_least_zero_is_valid(value: float) -> None:
    MCPPool({"files": StdioServer("program", connect_timeout=value, close_timeout=value)}, wait_timeout=value)


def test_a_policy_may_have_full_jitter_or_none() -> None:
    for jitter in (0, 1):
        MCPPool(restart=RestartPolicy(jitter=jitter, initial_delay=0, max_delay=0, multiplier=1, max_restarts=0))
