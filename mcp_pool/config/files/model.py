"""The keys of one server's entry, and their types. What values are allowed is up to the specs and policies."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

_STRICT: Final = ConfigDict(strict=True, extra="forbid")


class Restart(BaseModel):
    """The fields of `RestartPolicy`."""

    model_config: ClassVar[ConfigDict] = _STRICT
    initial_delay: float = 0
    multiplier: float = 0
    max_delay: float = 0
    jitter: float = 0
    stable_after: float = 0
    max_restarts: int | None = None


class Health(BaseModel):
    """The fields of `HealthCheck`."""

    model_config: ClassVar[ConfigDict] = _STRICT
    interval: float = 0
    timeout: float = 0
    failure_threshold: int = 0


class _Common(BaseModel):
    """What can be set for one server and for all."""

    model_config: ClassVar[ConfigDict] = _STRICT
    connect_timeout: float | None = None
    call_timeout: float | None = None
    max_call_time: float | None = None
    close_timeout: float = 0
    restart: Restart | Literal["never"] | None = None
    health: Health | None = None


class Ours(_Common):
    """The object `mcp_pool` of one server: what other hosts do not have."""

    required: bool = False
    mode: str = ""
    max_in_flight: int | None = None
    max_message_size: int = 0
    include_tools: list[str] = []
    exclude_tools: list[str] = []
    retry_safe: list[str] | Literal["annotated"] = []
    on_changed: str = ""
    pinned: dict[str, str] = {}


class OursForAll(_Common):
    """The object `mcp_pool` of the whole file: settings of the pool."""

    open_timeout: float | None = None
    wait_timeout: float | None = None
    max_connecting: int = 0
    launch_limits: dict[str, int | None] | None = None


class Entry(BaseModel):
    """One server, in the words of most hosts."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="allow")
    type: Annotated[str | None, Field(validation_alias=AliasChoices("type", "transport"))] = None
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    env_file: Annotated[str | None, Field(validation_alias="envFile")] = None
    cwd: str | None = None
    url: Annotated[str | None, Field(validation_alias=AliasChoices("httpUrl", "url", "serverUrl"))] = None
    headers: dict[str, str] = {}
    disabled: bool = False
    enabled: bool = True
    timeout: float | None = None
    include_tools: Annotated[list[str] | None, Field(validation_alias="includeTools")] = None
    exclude_tools: Annotated[list[str] | None, Field(validation_alias="excludeTools")] = None
    mcp_pool: Ours = Ours()


ENTRY_KEYS: Final = (
    *("type", "transport", "command", "args", "env", "envFile", "cwd", "url", "httpUrl", "serverUrl", "headers"),
    *("disabled", "enabled", "timeout", "includeTools", "excludeTools", "mcp_pool"),
)
"""The keys that mean something here."""
