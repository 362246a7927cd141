"""Every exception that the pool raises, grouped by who has to act.

* the author of the call or the configuration: `ConfigError`, `UnknownServer`, `UnknownTool`, `PoolClosed`
* the operator of the server: `ConnectError`, `ConnectTimeout`, `ConnectionLost`, `ServerUnavailable`
* the author of the server: `InvalidResponse`, `CallTimeout`, `HttpStatusError`

An error that the server itself returns is none of these: `mcp.MCPError` passes through unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Final, Literal, Self, TypeAlias, TypedDict, Unpack, final

Phase: TypeAlias = Literal["spawn", "discover", "initialize", "list", "call"]
"""What the pool was doing: starting the process, `server/discover`, `initialize`, listing, or a call."""

Problem: TypeAlias = tuple[str, str]
"""What is wrong: a field's name, and the end of a sentence that begins with it."""

REASON_LIMIT: Final = 2048
"""The most bytes in a reason, in UTF-8: it may be passed to a model, and parts of it may come from a server."""


class ErrorContext(TypedDict, total=False):
    """The keyword arguments that every error takes; see `MCPPoolError`."""

    advice: str
    server_id: str | None
    generation: int | None
    phase: Phase | None
    attempt: int | None
    cause: BaseException | None


class MCPPoolError(Exception):
    """The base class of all errors in this package.

    `str()` gives the reason, then the advice, then the end of the server's standard error, if there is any.

    Args:
        reason: What happened, in one sentence that can be passed to a model: at most 2 KiB, no standard error.
        advice: What the operator can do; empty if there is nothing to do.
        server_id: The id of the server that failed; None if the error is about the pool.
        generation: The number of the server's connection (the first is 1); None if there was none.
        phase: What the pool was doing.
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
        """Return a copy with the same cause, to be raised in another task.

        A single object raised in many tasks would accumulate the tracebacks of all of them.
        """
        duplicate = copy.copy(self)
        duplicate.__cause__ = self.__cause__
        return duplicate


def _readable(reason: str) -> str:
    """Return a reason without control characters, which may come from a server, cut to the limit."""
    if not reason.isprintable():
        reason = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    encoded = reason.encode()
    if len(encoded) <= REASON_LIMIT:
        return reason
    return encoded[: REASON_LIMIT - len("…".encode())].decode(errors="ignore") + "…"


@final
class ConfigError(MCPPoolError, ValueError):
    """An argument is invalid. Nothing was started, and nothing that was running was disturbed.

    Args:
        reason: What is invalid, and why.
        server_id: The server that was being configured; None for the pool's own settings.
        problems: Everything that is invalid, as pairs: the name of a field, and the rest of a sentence about it.
    """

    def __init__(
        self,
        reason: str,
        *,
        server_id: str | None = None,
        problems: Sequence[Problem] = (),
        advice: str = "",
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(reason, server_id=server_id, advice=advice, cause=cause)
        self.problems: tuple[Problem, ...] = tuple(problems)

    @property
    def field(self) -> str | None:
        """The name of the first invalid field; None if the error is not about a field."""
        return self.problems[0][0] if self.problems else None


class ConnectError(MCPPoolError):
    """A connection attempt failed.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
        retryable: False if another attempt cannot help until something is changed.
        exit_status: The exit code of the server's process, or minus the number of the signal that ended it; None if it
            has not exited or the server has no process.
        stderr_tail: The end of the server's standard error, with secrets removed; empty if it wrote nothing.
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
    """A server did not connect within `connect_timeout`: that includes the wait for a slot and the first listing."""


@final
class ConnectionLost(MCPPoolError):
    """A connection was lost, during a call or while it was idle.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
        may_have_run: False only if the server provably did not run the call, or if the error is not about a call.
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
    """A call was not answered in time. If it had been sent, the server was told to cancel it.

    The connection stays in use.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
        may_have_run: True if the request had been sent to the server.
    """


@final
class InvalidResponse(_CallError):
    """A server sent a response that violates the protocol or the tool's own output schema.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
        may_have_run: Whether the call may have run; False if the response was not to a call.
    """


@final
class HttpStatusError(_CallError):
    """A server responded with an HTTP error that contains no JSON-RPC message.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
        status: The HTTP status, such as 503; 0 if it is not known.
        retry_after: How many seconds the server asked to wait, with a 429 or 503; None if it did not.
        may_have_run: Whether the call may have run; False if the response was not to a call.
        excerpt: The beginning of the response's body, or the title of a web page: on one line, with secrets masked, and
            at most 240 characters; None if there is none, or it could not be read.
        authenticate: The scheme and the error in the server's `WWW-Authenticate` header, such as
            "Bearer error=invalid_token"; None without that header.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int = 0,
        retry_after: float | None = None,
        may_have_run: bool = False,
        excerpt: str | None = None,
        authenticate: str | None = None,
        **context: Unpack[ErrorContext],
    ) -> None:
        super().__init__(reason, may_have_run=may_have_run, **context)
        self.status = status
        self.retry_after = retry_after
        self.excerpt = excerpt
        self.authenticate = authenticate


@final
class ServerUnavailable(MCPPoolError):
    """A server did not connect in time, has failed, was disconnected, or had no free slot. The call has not run.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
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
    """No server in the pool offers a tool with this name."""


@final
class PoolClosed(MCPPoolError, RuntimeError):
    """The pool is not open: its block has not been entered, is ending, or has ended."""
