"""Every exception that a caller of the pool can meet, sorted by who must act.

* the one who wrote the call or the configuration: `ConfigError`, `UnknownServer`, `UnknownTool`, `PoolClosed`
* the one who runs the server: `ConnectError`, `ConnectTimeout`, `ConnectionLost`, `ServerUnavailable`
* the one who wrote the server: `BadAnswer`, `CallTimeout`, `HttpStatus`

An error that a server sends as its answer is none of these: `mcp.MCPError` passes through untouched.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Literal, Self, TypeAlias, cast, final

from mcp_pool.guard import cancellations

Phase: TypeAlias = Literal["spawn", "discover", "initialize", "list", "call"]
"""What was being done: starting the process, `server/discover`, `initialize`, listing the tools, or a call."""


class MCPPoolError(Exception):
    """The root of all errors of this package.

    Args:
        message: One clear sentence, and what to do.
        server_id: The id of the server that it is about; None when it is about the pool.
        generation: The number of that server's connection (the first is 1); None when there was none.
        phase: What was being done.
        attempt: The number of the dial that failed (the first is 1).
        cause: The exception that led to this one; it becomes `__cause__`.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        phase: Phase | None = None,
        attempt: int | None = None,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.server_id = server_id
        self.generation = generation
        self.phase: Phase | None = phase
        self.attempt = attempt
        self.__cause__ = cause

    def __str__(self) -> str:
        return self.message

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


@final
class ConfigError(MCPPoolError, ValueError):
    """An argument is wrong. Nothing was started, and nothing that runs was disturbed.

    Args:
        message: What is wrong with which field of which server.
        server_id: The server that was being configured; None for the pool's own settings.
        field: The name of the argument.
    """

    def __init__(self, message: str, *, server_id: str | None = None, field: str | None = None) -> None:
        super().__init__(message, server_id=server_id)
        self.field = field


class ConnectError(MCPPoolError):
    """A connection could not be made.

    Args:
        message: See `MCPPoolError`, as for the keywords that are not named here.
        needs_person: True when trying again cannot help until somebody changes something.
        exit_status: How the server's process ended: its exit code, or minus the number of the signal; None if it did
            not end or there is none.
        last_words: The end of what the server wrote to standard error, secrets removed; empty if it wrote nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        phase: Phase | None = None,
        attempt: int | None = None,
        cause: BaseException | None = None,
        needs_person: bool = False,
        exit_status: int | None = None,
        last_words: str = "",
    ) -> None:
        super().__init__(message, server_id=server_id, generation=generation, phase=phase, attempt=attempt, cause=cause)
        self.needs_person = needs_person
        self.exit_status = exit_status
        self.last_words = last_words


@final
class ConnectTimeout(ConnectError, TimeoutError):
    """A server did not finish the handshake and its first listing within `connect_timeout`."""


@final
class ConnectionLost(MCPPoolError):
    """A connection ended under a call, or under the pool.

    Args:
        message: See `MCPPoolError`, as for the keywords that are not named here.
        may_have_run: False only when the server provably did not run the call. For a loss without a call: False.
        exit_status: As in `ConnectError`.
        last_words: As in `ConnectError`.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        phase: Phase | None = None,
        attempt: int | None = None,
        cause: BaseException | None = None,
        may_have_run: bool = False,
        exit_status: int | None = None,
        last_words: str = "",
    ) -> None:
        super().__init__(message, server_id=server_id, generation=generation, phase=phase, attempt=attempt, cause=cause)
        self.may_have_run = may_have_run
        self.exit_status = exit_status
        self.last_words = last_words


@final
class CallTimeout(MCPPoolError, TimeoutError):
    """A call was not answered in time. The server was told; the connection stays in use.

    Args:
        message: See `MCPPoolError`, as for the keywords that are not named here.
        may_have_run: True when the request had been handed to the server.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        may_have_run: bool = True,
    ) -> None:
        super().__init__(message, server_id=server_id, generation=generation, phase="call")
        self.may_have_run = may_have_run


@final
class ServerUnavailable(MCPPoolError):
    """A server is not connected, and was not within the time to wait for it. Nothing of the call has run.

    Args:
        message: See `MCPPoolError`, as for the keywords that are not named here.
        missing: The ids of all servers that were waited for in vain.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        cause: BaseException | None = None,
        missing: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, server_id=server_id, generation=generation, cause=cause)
        self.missing = missing


@final
class HttpStatus(MCPPoolError):
    """A server answered with an HTTP error and no JSON-RPC message.

    Args:
        message: See `MCPPoolError`, as for the keywords that are not named here.
        status: The status, such as 503; 0 when it was not told.
        may_have_run: Whether the call may have run. For an answer to something that is no call: False.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        phase: Phase | None = None,
        status: int = 0,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(message, server_id=server_id, generation=generation, phase=phase)
        self.status = status
        self.may_have_run = may_have_run


@final
class BadAnswer(MCPPoolError):
    """A server answered with something that breaks the protocol or the tool's own output schema.

    Args:
        message: See `MCPPoolError`, as for the keywords that are not named here.
        may_have_run: Whether the call may have run. For an answer to something that is no call: False.
    """

    def __init__(
        self,
        message: str,
        *,
        server_id: str | None = None,
        generation: int | None = None,
        phase: Phase | None = None,
        cause: BaseException | None = None,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(message, server_id=server_id, generation=generation, phase=phase, cause=cause)
        self.may_have_run = may_have_run


@final
class UnknownServer(MCPPoolError, LookupError):
    """No living server has this id."""


@final
class UnknownTool(MCPPoolError, LookupError):
    """No server in the pool has offered a tool of this name."""


@final
class PoolClosed(MCPPoolError, RuntimeError):
    """The pool is not open: its block has not been entered yet, is being left, or has ended."""


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error that is kept, and of its causes: their frames hold whole connections."""
    link: BaseException | None = error
    seen = set[int]()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        with suppress(Exception):  # a frozen exception of the user's refuses
            link.__traceback__ = None
        link = link.__cause__ or link.__context__


def plain(error: BaseException) -> BaseException:
    """Take exception groups apart: the first leaf that is an error of its own, or else the first one.

    Args:
        error: What came out of a task group, perhaps groups within groups.

    Returns:
        `error` itself when it is no group.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = [plain(leaf) for leaf in group.exceptions]
    return next((leaf for leaf in leaves if not isinstance(leaf, cancellations())), leaves[0])
