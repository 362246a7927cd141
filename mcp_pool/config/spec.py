"""What the specifications of all kinds of servers have in common.

A specification is checked when it is given to the pool, where its id is known, and not when it is made: the error can
then name both the server and the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import attrs
from mcp import Client
from mcp.client import Transport
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_pool.config.callbacks import ClientCallbacks
from mcp_pool.config.policies import HealthCheck, RestartPolicy
from mcp_pool.config.settings import DEFAULT, Default, Seconds, count_problems, policy_problems, timeout_problems
from mcp_pool.config.validation import is_mapping, kind_problems, string_problems

CLIENT_OPTIONS: Final = frozenset(
    {"cache", "client_info", "extensions", "input_required_max_rounds", "log_level", "prior_discover"}
)
"""The arguments of `mcp.Client` that are the user's; all others are the pool's own."""

ANNOTATED: Final = "annotated"
"""The value of `retry_safe` that trusts what a server says of its tools."""

MEBIBYTE: Final = 2**20


# The converters leave values of a wrong type alone: `problems` tells of them, with the server's id.


def as_tuple(value: Sequence[str]) -> Sequence[str]:
    """Return a list as a tuple, and anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def as_strings(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return a read-only copy of a mapping, and anything else as it is."""
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value


def _as_options(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value)) if is_mapping(value) else value


@attrs.frozen(kw_only=True, repr=False)
class ServerSpec:
    """What all kinds of servers have in common. Not made directly: use one of the kinds."""

    connect_timeout: Seconds = DEFAULT
    """Seconds for one attempt: start, handshake and first listing."""
    call_timeout: Seconds = DEFAULT
    """Seconds of silence after which a call is given up; progress from the server starts them anew."""
    max_call_time: Seconds = DEFAULT
    """Seconds for one call as a whole."""
    close_timeout: float | Literal[Default.DEFAULT] = DEFAULT
    """Seconds for a connection to say goodbye."""
    restart: RestartPolicy | Literal[Default.DEFAULT] = DEFAULT
    """When a lost connection is made anew."""
    health: HealthCheck | Literal[Default.DEFAULT] | None = DEFAULT
    """When the server is asked whether it is there; None: never."""
    required: bool = False
    """Whether the pool's block opens only if this server does. For servers given to `MCPPool(servers=…)`."""
    mode: str = "auto"
    """How the protocol's protocol is found, as in `mcp.Client`: `"auto"`, `"legacy"`, or a modern version."""
    max_in_flight: int | None = None
    """How many calls may run at once; further ones wait in the order in which they came. None: no bound."""
    max_message_size: int = 16 * MEBIBYTE
    """The longest message, in bytes, that the server may send; one that is longer ends the connection or the call."""
    include_tools: Sequence[str] = attrs.field(default=("*",), converter=as_tuple)
    """Globs of the tools that are offered, by the server's own names."""
    exclude_tools: Sequence[str] = attrs.field(default=(), converter=as_tuple)
    """Globs of the tools that are left out, by the server's own names; stronger than `include_tools`."""
    retry_safe: Sequence[str] = attrs.field(default=(), converter=as_tuple)
    """Globs of the tools that may be sent again when a connection was lost and they may have run; or `"annotated"`:
    those of which the server says by `readOnlyHint` or `idempotentHint` that it does no harm."""
    callbacks: ClientCallbacks = attrs.field(factory=ClientCallbacks)
    """What the server may call back; where there is none, that of the pool."""
    client_options: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_as_options)
    """Handed on to `mcp.Client`: `cache`, `client_info`, `extensions`, `input_required_max_rounds`, `log_level`,
    `prior_discover`."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with this value, as pairs of a field's name and a sentence; usually nothing."""
        yield from timeout_problems(
            {name: getattr(self, name) for name in ("connect_timeout", "call_timeout", "max_call_time")}
        )
        if self.close_timeout is not DEFAULT:
            yield from timeout_problems({"close_timeout": self.close_timeout}, unbounded=False)
        if self.restart is not DEFAULT:
            yield from policy_problems("restart", self.restart, RestartPolicy)
        if self.health is not DEFAULT and self.health is not None:
            yield from policy_problems("health", self.health, HealthCheck)
        if self.max_in_flight is not None:
            yield from count_problems("max_in_flight", self.max_in_flight)
        yield from retry_safe_problems(self.retry_safe)
        yield from callback_problems(self.callbacks)
        yield from kind_problems("required", self.required, bool, "must be True or False")
        if self.mode not in ("auto", "legacy", *MODERN_PROTOCOL_VERSIONS):
            choices = ", ".join(("auto", "legacy", *MODERN_PROTOCOL_VERSIONS))
            yield "mode", f"must be one of {choices}, not {self.mode!r}"
        yield from count_problems("max_message_size", self.max_message_size)
        yield from string_problems("include_tools", self.include_tools, "globs")
        yield from string_problems("exclude_tools", self.exclude_tools, "globs")
        yield from _option_problems(self.client_options)

    def secrets(self) -> Iterable[str]:
        """Return the values that must never be shown."""
        return ()


def retry_safe_problems(retry_safe: object) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the tools that may be sent again."""
    if isinstance(retry_safe, str):
        if retry_safe != ANNOTATED:
            yield "retry_safe", f"must be a list of globs or {ANNOTATED!r}, not {retry_safe!r}"
        return
    yield from string_problems("retry_safe", retry_safe, "globs")


def callback_problems(callbacks: object) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the callbacks."""
    if not isinstance(callbacks, ClientCallbacks):
        yield "callbacks", f"must be ClientCallbacks, not a {type(callbacks).__name__}"
        return
    for field, problem in callbacks.problems():
        yield f"callbacks.{field}", problem


def _option_problems(options: object) -> Iterator[tuple[str, str]]:
    if not is_mapping(options):
        yield "client_options", f"must be a mapping, not a {type(options).__name__}"
        return
    if foreign := sorted(str(key) for key in options if key not in CLIENT_OPTIONS):
        yield "client_options", f"has {', '.join(foreign)}; allowed are {', '.join(sorted(CLIENT_OPTIONS))}"
        return
    try:
        # A client that is never entered: its constructor is what knows the rules of its options.
        Client(cast("Transport", nullcontext()), **options)
    except (TypeError, ValueError) as error:
        yield "client_options", f"was refused by mcp.Client: {error}"
