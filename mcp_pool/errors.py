"""Every exception that a caller of the pool can meet, sorted by who must act.

* the one who wrote the call or the configuration: `ConfigError`, `UnknownServer`, `UnknownTool`, `PoolClosed`
* the one who runs the server: `ConnectError`, `ConnectTimeout`, `ConnectionLost`, `ServerUnavailable`
* the one who wrote the server: `InvalidResponse`, `CallTimeout`, `HttpStatusError`

An error that a server sends as its answer is none of these: `mcp.MCPError` passes through untouched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final, Literal, Self, TypeAlias, TypedDict, Unpack, final

Phase: TypeAlias = Literal["spawn", "discover", "initialize", "list", "call"]
"""What was being done: starting the process, `server/discover`, `initialize`, listing, or a call."""

REASON_LIMIT: Final = 2048
"""Bytes of a reason at most, in UTF-8: it may be handed to a model, and a server may have a say in it."""


class ErrorContext(TypedDict, total=False):
    """What every error of this package may know; see `MCPPoolError`."""

    advice: str
    server_id: str | None
    generation: int | None
    phase: Phase | None
    attempt: int | None
    cause: BaseException | None


class MCPPoolError(Exception):
    """The root of all errors of this package.

    Its text is the reason, then the advice, then the end of the server's standard error where there is any.

    Args:
        reason: What happened, in one sentence, fit for a model to read: at most 2 KiB, without standard error.
        advice: What the operator can do; empty where nothing can be done.
        server_id: The id of the server that it is about; None when it is about the pool.
        generation: The number of that server's connection (the first is 1); None when there was none.
        phase: What was being done.
        attempt: The number of the connection attempt that failed (the first is 1).
        cause: The exception that led to this one; it becomes `__cause__`.
    """

    def __init__(
        self,
        reason: str,
        *,
        advice: str = "",
        server_id: str | None = None,
        generation: int | None = None,
        phase: Phase | None = None,
        attempt: int | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason: str = _readable(reason)
        self.advice = advice
        self.server_id = server_id
        self.generation = generation
        self.phase: Phase | None = phase
        self.attempt = attempt
        self.stderr_tail = ""
        self.__cause__ = cause

    def __str__(self) -> str:
        message = f"{self.reason} {self.advice}".rstrip()
        if self.stderr_tail:
            message += "\nThe end of its standard error:" + "".join(
                f"\n    {line}" for line in self.stderr_tail.splitlines()
            )
        return message

    @property
    def cause(self) -> BaseException | None:
        """The exception that led to this one: the same object as `__cause__`."""
        return self.__cause__

    def again(self) -> Self:
        """Return an equal error, with the same cause, to be raised in another task.

        One object raised in many tasks would collect the tracebacks of all of them.
        """
        twin = copy.copy(self)
        twin.__cause__ = self.__cause__
        return twin


def _readable(reason: str) -> str:
    """Return a reason without control characters, which may come from a server, and not longer than it may be."""
    if not reason.isprintable():
        reason = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    encoded = reason.encode()
    if len(encoded) <= REASON_LIMIT:
        return reason
    return encoded[: REASON_LIMIT - len("…".encode())].decode(errors="ignore") + "…"


@final
class ConfigError(MCPPoolError, ValueError):
    """An argument is wrong. Nothing was started, and nothing that is running was disturbed.

    Args:
        reason: What is wrong with which field of what.
        server_id: The server that was being configured; None for the pool's own settings.
        problems: All that is wrong, as pairs of a field's name and the end of a sentence that begins with it.
    """

    def __init__(
        self,
        reason: str,
        *,
        server_id: str | None = None,
        problems: Sequence[tuple[str, str]] = (),
        advice: str = "",
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(reason, server_id=server_id, advice=advice, cause=cause)
        self.problems: tuple[tuple[str, str], ...] = tuple(problems)

    @property
    def field(self) -> str | None:
        """The name of the first field that is wrong; None where it is no field."""
        return self.problems[0][0] if self.problems else None


class ConnectError(MCPPoolError):
    """A connection could not be made.

    Args:
        reason: See `MCPPoolError`, as for the keywords that are not named here.
        retryable: False when another attempt cannot help until something is changed.
        exit_status: How the server's process ended: its exit code, or minus the number of the signal; None if it did
            not end or there is none.
        stderr_tail: The end of what the server wrote to standard error, secrets removed; empty if it wrote nothing.
    """

    def __init__(
        self,
        reason: str,
        *,
        retryable: bool = True,
        exit_status: int | None = None,
        stderr_tail: str = "",
        **context: Unpack[ErrorContext],
    ) -> None:
        super().__init__(reason, **context)
        self.retryable = retryable
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail


@final
class ConnectTimeout(ConnectError, TimeoutError):
    """A server did not finish the handshake and its first listing within `connect_timeout`."""


@final
class ConnectionLost(MCPPoolError):
    """A connection was lost, during a call or while it was idle.

    Args:
        reason: See `MCPPoolError`, as for the keywords that are not named here.
        may_have_run: False only when the server provably did not run the call. For a loss without a call: False.
        exit_status: As in `ConnectError`.
        stderr_tail: As in `ConnectError`.
    """

    def __init__(
        self,
        reason: str,
        *,
        may_have_run: bool = False,
        exit_status: int | None = None,
        stderr_tail: str = "",
        **context: Unpack[ErrorContext],
    ) -> None:
        super().__init__(reason, **context)
        self.may_have_run = may_have_run
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail


class _CallError(MCPPoolError):
    def __init__(self, reason: str, *, may_have_run: bool = False, **context: Unpack[ErrorContext]) -> None:
        super().__init__(reason, **context)
        self.may_have_run = may_have_run


@final
class CallTimeout(_CallError, TimeoutError):
    """A call was not answered in time. The server was told; the connection stays in use.

    Args:
        reason: See `MCPPoolError`, as for the keywords that are not named here.
        may_have_run: True when the request had been handed to the server.
    """


@final
class InvalidResponse(_CallError):
    """A server answered with something that breaks the protocol or the tool's own output schema.

    Args:
        reason: See `MCPPoolError`, as for the keywords that are not named here.
        may_have_run: Whether the call may have run. For an answer to something that is not a call: False.
    """


@final
class HttpStatusError(_CallError):
    """A server answered with an HTTP error and no JSON-RPC message.

    Args:
        reason: See `MCPPoolError`, as for the keywords that are not named here.
        status: The status, such as 503; 0 when it was not told.
        may_have_run: Whether the call may have run. For an answer to something that is not a call: False.
    """

    def __init__(
        self, reason: str, *, status: int = 0, may_have_run: bool = False, **context: Unpack[ErrorContext]
    ) -> None:
        super().__init__(reason, may_have_run=may_have_run, **context)
        self.status = status


@final
class ServerUnavailable(MCPPoolError):
    """A server is not connected, and did not connect within the time to wait for it. Nothing of the call has run.

    Args:
        reason: See `MCPPoolError`, as for the keywords that are not named here.
        missing: The ids of all servers that did not connect.
    """

    def __init__(self, reason: str, *, missing: tuple[str, ...] = (), **context: Unpack[ErrorContext]) -> None:
        super().__init__(reason, **context)
        self.missing = missing


@final
class UnknownServer(MCPPoolError, LookupError):
    """No current server has this id."""


@final
class UnknownTool(MCPPoolError, LookupError):
    """No server in the pool has offered a tool of this name."""


@final
class PoolClosed(MCPPoolError, RuntimeError):
    """The pool is not open: its block has not been entered yet, is being left, or has ended."""
