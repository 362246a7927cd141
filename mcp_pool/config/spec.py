"""What all specs have in common. A spec is validated when it is constructed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, Final, Literal, Self, cast

import attrs
from mcp import Client
from mcp.client import Transport
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_pool.config.callbacks import ClientCallbacks
from mcp_pool.config.policies import HealthCheck, RestartPolicy
from mcp_pool.config.settings import DEFAULT, Default, Seconds, timeout_problems
from mcp_pool.config.validation import (
    argument_problems,
    count_problems,
    instance_problems,
    is_mapping,
    kind_of,
    kind_problems,
    reject,
    string_problems,
)
from mcp_pool.errors import Problem

CLIENT_OPTIONS: Final = frozenset(
    {
        "cache",
        "client_info",
        "extensions",
        "input_required_max_rounds",
        "log_level",
        "prior_discover",
        "sampling_capabilities",
    }
)
"""The arguments of `mcp.Client` that users may set; the pool sets all others."""

ANNOTATED: Final = "annotated"
"""The value of `retry_safe` that trusts the server's annotations of its tools."""

HOLD: Final = "hold"
"""The value of `on_changed` that takes changed tools out of the catalog until they are approved."""

MEBIBYTE: Final = 2**20


# The converters do not touch values of a wrong type: validation reports those.


def as_tuple(value: Sequence[str]) -> Sequence[str]:
    """Turn a list into a tuple; return anything else unchanged."""
    return tuple(value) if isinstance(value, list) else value


def as_strings(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Turn a mapping into a read-only copy; return anything else unchanged."""
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else value


def _as_options(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(value)) if is_mapping(value) else value


# Never constructed itself: letting attrs generate its methods would only slow down the import.
@attrs.frozen(kw_only=True, init=False, eq=False, repr=False)
class ServerSpec:
    """What the specs of all kinds of servers have in common. Not constructed directly.

    Specs are frozen, compared by value, hashable, and can be copied and pickled.

    Attributes:
        connect_timeout: Seconds for one connection attempt: the wait for a slot, start, handshake and first listing;
            None for no limit. Default: the pool's.
        call_timeout: Seconds of silence after which a call times out; progress restarts the time. None for no limit.
            Default: the pool's.
        max_call_time: Seconds for one call as a whole; None for no limit. Default: the pool's.
        close_timeout: Seconds that a connection may take to close cleanly. Default: the pool's.
        restart: When to reconnect after a connection is lost or an attempt fails. Default: the pool's.
        health: When to probe the server; None disables health checks. Default: the pool's.
        required: Whether the pool's block opens only if this server connects. For `MCPPool(servers=…)`. Default False.
        mode: How the protocol is chosen, as in `mcp.Client`: `"auto"`, `"legacy"`, or a modern version.
        max_in_flight: How many calls may run at once; others wait in order of arrival. Default None: no limit.
        max_message_size: The longest message that the server may send, in bytes. Default 16 MiB.
        include_tools: Globs of the tools to offer, by the server's own names. Default: all.
        exclude_tools: Globs of the tools to leave out, even if `include_tools` matches them. Default: none.
        retry_safe: Globs of the tools that may be retried after a lost connection although they may have run; or
            `"annotated"` for those that the server marks with `readOnlyHint` or `idempotentHint`. Default: none.
        on_changed: What happens to a tool that is added, or whose definition changes, after the server's first listing:
            `"allow"` offers it, `"hold"` takes it out of the catalog until `Server.approve`. Default `"allow"`.
        pinned: For `on_changed="hold"`, the fingerprints of tools by the server's own names (see
            `ToolEntry.fingerprint`): a tool with another one is held from the first listing on. Default: none.
        callbacks: Functions that answer the server's requests. Missing ones are taken from the pool's `callbacks`.
        client_options: Passed on to `mcp.Client`: `cache`, `client_info`, `extensions`, `input_required_max_rounds`,
            `log_level`, `prior_discover`, `sampling_capabilities`.
    """

    connect_timeout: Seconds = DEFAULT
    call_timeout: Seconds = DEFAULT
    max_call_time: Seconds = DEFAULT
    close_timeout: float | Literal[Default.DEFAULT] = DEFAULT
    restart: RestartPolicy | Literal[Default.DEFAULT] = DEFAULT
    health: HealthCheck | Literal[Default.DEFAULT] | None = DEFAULT
    required: bool = False
    mode: str = "auto"
    max_in_flight: int | None = None
    max_message_size: int = 16 * MEBIBYTE
    include_tools: Sequence[str] = attrs.field(default=("*",), converter=as_tuple)
    exclude_tools: Sequence[str] = attrs.field(default=(), converter=as_tuple)
    retry_safe: Sequence[str] = attrs.field(default=(), converter=as_tuple)
    on_changed: str = "allow"
    # A mapping is not hashable; specs that differ only here are still unequal.
    pinned: Mapping[str, str] = attrs.field(factory=dict[str, str], converter=_as_options, hash=False)
    callbacks: ClientCallbacks = attrs.field(factory=ClientCallbacks)
    client_options: Mapping[str, Any] = attrs.field(factory=dict[str, Any], converter=_as_options, hash=False)

    def __attrs_post_init__(self) -> None:
        reject(type(self).__name__, self._problems())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # it is frozen, and so is what it holds

    def __reduce__(self) -> tuple[Any, ...]:
        """Go through `__init__`, so that what is unpickled is valid too; a read-only mapping cannot be pickled."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        plain = {name: dict(value) if is_mapping(value) else value for name, value in values.items()}
        return _rebuild, (type(self), plain)

    def _problems(self) -> Iterator[Problem]:
        times = ("connect_timeout", "call_timeout", "max_call_time")
        yield from timeout_problems({name: getattr(self, name) for name in times})
        yield from timeout_problems({"close_timeout": self.close_timeout}, unbounded=False)
        if self.restart is not DEFAULT:
            yield from instance_problems("restart", self.restart, RestartPolicy)
        if self.health is not DEFAULT and self.health is not None:
            yield from instance_problems("health", self.health, HealthCheck)
        if self.max_in_flight is not None:
            yield from count_problems("max_in_flight", self.max_in_flight)
        yield from _retry_safe_problems(self.retry_safe)
        if self.on_changed not in ("allow", HOLD):
            yield "on_changed", f"must be 'allow' or {HOLD!r}, not {self.on_changed!r}"
        yield from _pinned_problems(self.pinned, self.on_changed)
        yield from instance_problems("callbacks", self.callbacks, ClientCallbacks)
        yield from kind_problems("required", self.required, bool, "must be True or False")
        if self.mode not in ("auto", "legacy", *MODERN_PROTOCOL_VERSIONS):
            choices = ", ".join(("auto", "legacy", *MODERN_PROTOCOL_VERSIONS))
            yield "mode", f"must be one of {choices}, not {self.mode!r}"
        yield from count_problems("max_message_size", self.max_message_size)
        yield from string_problems("include_tools", self.include_tools, "globs")
        yield from string_problems("exclude_tools", self.exclude_tools, "globs")
        yield from _option_problems(self.client_options)

    def current_problems(self) -> Iterator[Problem]:
        """Yield what has become invalid since the spec was constructed."""
        yield from ()

    def secrets(self) -> Iterable[str]:
        """Return the values that must never be shown."""
        return ()


def _rebuild(kind: type[ServerSpec], values: Mapping[str, Any]) -> ServerSpec:
    return kind(**values)


def _retry_safe_problems(value: object) -> Iterator[Problem]:
    if isinstance(value, str):
        if value != ANNOTATED:
            yield "retry_safe", f"must be a list of globs or {ANNOTATED!r}, not {value!r}"
        return
    yield from string_problems("retry_safe", value, "globs")


def _pinned_problems(pinned: object, on_changed: object) -> Iterator[Problem]:
    yield from argument_problems("pinned", pinned, str)
    if pinned and on_changed != HOLD:
        yield "pinned", f"has no effect without on_changed={HOLD!r}"


def _option_problems(options: object) -> Iterator[Problem]:
    if not is_mapping(options):
        yield "client_options", f"must be a mapping, not {kind_of(options)}"
        return
    if foreign := sorted(str(key) for key in options if key not in CLIENT_OPTIONS):
        yield "client_options", f"has {', '.join(foreign)}, but only allows {', '.join(sorted(CLIENT_OPTIONS))}"
        return
    try:
        # Never entered: constructing a client is how its options are validated.
        Client(cast("Transport", nullcontext()), **options)
    except (TypeError, ValueError) as error:
        yield "client_options", f"was rejected by mcp.Client: {error}"
