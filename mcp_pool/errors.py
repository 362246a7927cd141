"""Every exception that the pool raises, grouped by who has to act.

* the author of the call or the configuration: `ConfigError`, `UnknownServer`, `UnknownTool`, `PoolClosed`
* the operator of the server: `ConnectError`, `ConnectTimeout`, `ConnectionLost`, `ServerUnavailable`
* the author of the server: `InvalidResponse`, `CallTimeout`, `HttpStatusError`

An error that the server returns, an `mcp.MCPError`, passes through unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, Self, TypeAlias, TypedDict, Unpack, final

from mcp_pool._shared.readable import readable

Phase: TypeAlias = Literal["spawn", "discover", "initialize", "list", "call"]
"""What the pool was doing: starting the process, `server/discover`, `initialize`, listing, or a call."""

Problem: TypeAlias = tuple[str, str]
"""What is wrong: a field's name, and the end of a sentence that begins with it."""


class ErrorContext(TypedDict, total=False):
    """The keyword arguments that every error takes; see `MCPPoolError`."""

    advice: str
    server_id: str | None
    generation: int | None
    phase: Phase | None
    attempt: int | None
    cause: BaseException | None


class MCPPoolError(Exception):
    """The base class of all errors here. `str()` gives reason, advice, and the end of the server's standard error.

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
        self.reason: str = readable(reason)
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
        """Return a copy with the same cause: one object raised in many tasks would collect all their tracebacks."""
        duplicate = copy.copy(self)
        duplicate.__cause__ = self.__cause__
        return duplicate


@final
class ConfigError(MCPPoolError, ValueError):
    """An argument is invalid. Nothing was started, and nothing that was running was disturbed.

    Args:
        reason: What is invalid, and why. The other keywords are as in `MCPPoolError`.
        problems: Everything that is invalid, as pairs: the name of a field, and the rest of a sentence about it.
        details: What is wrong in a configuration file, in several lines that follow the message; otherwise empty.
    """

    def __init__(
        self,
        reason: str,
        *,
        problems: Sequence[Problem] = (),
        details: str = "",
        **context: Unpack[ErrorContext],
    ) -> None:
        super().__init__(reason, **context)
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.details = details

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.details}".rstrip()

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
class NameCollision(ConnectError, ValueError):
    """The pool's `name_tool` gives two tools the same catalog name. The server that came second was not connected.

    Args:
        reason: See `MCPPoolError` and `ConnectError`, also for the keywords that are not listed here.
        name: The name in the catalog.
        owner_id: The server whose tool has the name already.
    """

    def __init__(self, reason: str, *, name: str = "", owner_id: str = "", **context: Unpack[ErrorContext]) -> None:
        super().__init__(reason, retryable=False, **context)
        self.name = name
        self.owner_id = owner_id


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
        may_have_run: Whether the request had been sent to the server.
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
        excerpt: The beginning of the response's body, or the title of a web page: at most 240 characters on one line,
            with secrets masked; None if there is none, or it could not be read.
        authenticate: Scheme and error of the `WWW-Authenticate` header: "Bearer error=invalid_token"; None without it.
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
class UnknownPrompt(MCPPoolError, LookupError):
    """No server in the pool offers a prompt with this name."""


@final
class ToolHeld(MCPPoolError):
    """A tool is new or has changed, and its server's spec says `on_changed="hold"`. Nothing was sent.

    Args:
        reason: See `MCPPoolError`, also for the keywords that are not listed here.
        fingerprint: The fingerprint of the tool's current definition, for `Server.approve` once it has been reviewed.
    """

    def __init__(self, reason: str, *, fingerprint: str = "", **context: Unpack[ErrorContext]) -> None:
        super().__init__(reason, **context)
        self.fingerprint = fingerprint


@final
class PoolClosed(MCPPoolError, RuntimeError):
    """The pool is not open: its block has not been entered, is ending, or has ended."""
