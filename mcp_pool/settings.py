"""The pool's own settings, and what holds for one server once the defaults are filled in."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias, TypeVar, final

import attrs

from mcp_pool.checks import is_number
from mcp_pool.errors import ConfigError
from mcp_pool.policies import RestartPolicy

_T = TypeVar("_T")


@final
class Default(enum.Enum):
    """The type of `DEFAULT`."""

    DEFAULT = "the next wider setting"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default.DEFAULT
"""Stands for a parameter that was left out: the next wider setting applies."""

Seconds: TypeAlias = float | Literal[Default.DEFAULT] | None
"""A time in seconds; None: no bound; `DEFAULT`: the pool's setting."""


@final
@attrs.frozen(kw_only=True)
class Limits:
    """The bounds and the policy of one server, with the pool's defaults filled in. Times in seconds."""

    connect_timeout: float | None
    call_timeout: float | None
    max_call_time: float | None
    close_timeout: float
    restart: RestartPolicy


@final
@attrs.frozen(kw_only=True)
class Settings:
    """The pool's own settings. Times in seconds; None: no bound."""

    connect_timeout: float | None
    open_timeout: float | None
    wait_timeout: float | None
    call_timeout: float | None
    max_call_time: float | None
    close_timeout: float
    restart: RestartPolicy

    def check(self) -> None:
        """Raise `ConfigError` for the first setting that makes no sense."""
        times = ("connect_timeout", "open_timeout", "wait_timeout", "call_timeout", "max_call_time")
        for field, problem in (
            *timeout_problems({name: getattr(self, name) for name in times}, inherited=False),
            *timeout_problems({"close_timeout": self.close_timeout}, unbounded=False, inherited=False),
            *restart_problems(self.restart),
        ):
            raise ConfigError(f"MCPPool: {field} {problem}.", field=field)


def resolve(value: _T | Literal[Default.DEFAULT], wider: _T) -> _T:
    """Return `value`, or the wider setting when it was left out."""
    return wider if value is DEFAULT else value


def timeout_problems(
    times: Mapping[str, object], *, unbounded: bool = True, inherited: bool = True
) -> Iterator[tuple[str, str]]:
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


def restart_problems(policy: object) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a restart policy."""
    if not isinstance(policy, RestartPolicy):
        yield "restart", f"must be a RestartPolicy, not a {type(policy).__name__}"
        return
    for field, problem in policy.problems():
        yield f"restart.{field}", problem
