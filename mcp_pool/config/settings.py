"""The pool's own settings, and the limits of one server once the defaults are filled in."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, TypeAlias, TypedDict, TypeVar, final

import attrs

from mcp_pool.config.callbacks import CallbacksFor, ClientCallbacks
from mcp_pool.config.launch_limits import launch_limit_problems, with_defaults
from mcp_pool.config.policies import HealthCheck, RestartPolicy
from mcp_pool.config.validation import count_problems, instance_problems, is_number, kind_of, reject
from mcp_pool.errors import Problem

_T = TypeVar("_T")


@final
class Default(enum.Enum):
    """The type of `DEFAULT`."""

    DEFAULT = "the next wider setting"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
"""Stands for an omitted argument: the setting one level up applies (the spec's for a call, the pool's for a spec)."""

Seconds: TypeAlias = float | Literal[Default.DEFAULT] | None
"""A time in seconds; None for no limit, `DEFAULT` for the setting one level up."""

NameTool: TypeAlias = Callable[[str, str], str]
"""Returns the catalog name of a tool, from the server's id and its own name for the tool."""


@final
@attrs.frozen(kw_only=True)
class Limits:
    """The limits and policies of one server, with the pool's defaults filled in. Times are in seconds."""

    connect_timeout: float | None
    call_timeout: float | None
    max_call_time: float | None
    close_timeout: float
    restart: RestartPolicy
    health: HealthCheck | None
    callbacks: ClientCallbacks


class PoolSettings(TypedDict, total=False):
    """The settings of a pool, as keyword arguments; see `MCPPool`."""

    connect_timeout: float | None
    open_timeout: float | None
    wait_timeout: float | None
    call_timeout: float | None
    max_call_time: float | None
    close_timeout: float
    restart: RestartPolicy
    health: HealthCheck | None
    max_connecting: int
    launch_limits: Mapping[str, int | None] | None
    callbacks: CallbacksFor | None
    name_tool: NameTool | None


@final
@attrs.frozen(kw_only=True)
class Settings:
    """The pool's own settings. Times are in seconds; None means no limit."""

    connect_timeout: float | None
    open_timeout: float | None
    wait_timeout: float | None
    call_timeout: float | None
    max_call_time: float | None
    close_timeout: float
    restart: RestartPolicy
    health: HealthCheck | None
    max_connecting: int
    launch_limits: Mapping[str, int | None] = attrs.field(converter=with_defaults)
    callbacks: CallbacksFor | None
    name_tool: NameTool | None = None

    def __attrs_post_init__(self) -> None:
        times = ("connect_timeout", "open_timeout", "wait_timeout", "call_timeout", "max_call_time")
        reject(
            "MCPPool",
            (
                *timeout_problems({name: getattr(self, name) for name in times}, inherited=False),
                *timeout_problems({"close_timeout": self.close_timeout}, unbounded=False, inherited=False),
                *instance_problems("restart", self.restart, RestartPolicy),
                *(() if self.health is None else instance_problems("health", self.health, HealthCheck)),
                *count_problems("max_connecting", self.max_connecting),
                *launch_limit_problems(self.launch_limits),
                *_function_problems("callbacks", self.callbacks, "a server's id"),
                *_function_problems("name_tool", self.name_tool, "a server's id and its name for a tool"),
            ),
        )


def resolve(value: _T | Literal[Default.DEFAULT], wider: _T) -> _T:
    """Return `value`, or the wider setting if it is `DEFAULT`."""
    return wider if value is DEFAULT else value


def timeout_problems(
    times: Mapping[str, object], *, unbounded: bool = True, inherited: bool = True
) -> Iterator[Problem]:
    """Yield a problem for each value that is not a time in seconds.

    Args:
        times: Names and values.
        unbounded: Whether None is allowed.
        inherited: Whether `DEFAULT` is allowed.
    """
    for name, value in times.items():
        if (unbounded and value is None) or (inherited and value is DEFAULT):
            continue
        if not is_number(value) or value < 0:
            allowed = "a number of seconds of at least 0" + (", or None" if unbounded else "")
            yield name, f"must be {allowed}, not {value!r}"


def _function_problems(name: str, value: object, arguments: str) -> Iterator[Problem]:
    if value is not None and not callable(value):
        yield name, f"must be a function of {arguments}, not {kind_of(value)}"
