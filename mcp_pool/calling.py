"""One call, from the wait for its server to its result: over the next connection, where it may be sent again."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Generic, TypeVar, final

import anyio
import attrs
from mcp import Client
from mcp.shared.dispatcher import ProgressFnT

from mcp_pool.connection import NoteProgress
from mcp_pool.errors import CallTimeout, ConnectionLost, MCPPoolError, ServerUnavailable
from mcp_pool.registry import Row
from mcp_pool.settings import DEFAULT, Seconds
from mcp_pool.specification import ANNOTATED
from mcp_pool.waiting import ready, slot

_T = TypeVar("_T")


@final
@attrs.frozen(kw_only=True)
class Request(Generic[_T]):
    """What is to be called."""

    send: Callable[[Client, ProgressFnT], Awaitable[_T]]
    """Makes the SDK's call with a client and the progress callback to pass on."""
    what: str
    """The call in words, for errors."""
    timeout: Seconds = DEFAULT
    """Seconds for the whole, waits included; None: no bound; `DEFAULT`: the server's bounds."""
    note_progress: NoteProgress | None = None
    """Takes reports of progress."""
    tool: str | None = None
    """The tool that it calls, by the server's own name; None when it calls none."""


@final
@attrs.define(eq=False, repr=False)
class Patience:
    """How long one call may wait: for a slot, for its server, and for the next connection after a loss."""

    left: float
    """Seconds of waiting that are left of `wait_timeout`. The time for which the call runs is none of them."""
    whole: float
    """Seconds for the whole call, waits included."""
    begun: float = attrs.field(factory=anyio.current_time, init=False)
    """When the call was made, on the event loop's clock."""
    _rejections: int = attrs.field(default=0, init=False)
    """How often a server refused the call, and with it the connection that it came on."""
    _since: float = attrs.field(default=0.0, init=False)
    """When the latest wait began."""

    def begin(self) -> float:
        """Begin to wait, and return until when, on the event loop's clock."""
        self._since = anyio.current_time()
        return min(self._since + self.left, self.begun + self.whole)

    def end(self) -> None:
        """End a wait."""
        self.left -= anyio.current_time() - self._since

    def note_rejection(self) -> None:
        """Note that a server refused the call, and with it the connection."""
        self._rejections += 1

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more.

        What is refused on the next connection too is refused for itself, and would cost everybody one connection after
        the other.
        """
        return self._rejections > 1 or self.left <= 0 or anyio.current_time() >= self.begun + self.whole


async def call(row: Row, request: Request[_T], wait_timeout: float | None) -> _T:
    """Make a call, and count how it ended.

    Args:
        row: The server.
        request: What to call.
        wait_timeout: Seconds to wait for the server and for a slot; None: no bound.

    Raises:
        ServerUnavailable: There was no connection, or no slot, within `wait_timeout`.
        MCPPoolError: As `Connection.call`.
    """
    whole = request.timeout if request.timeout is not DEFAULT and request.timeout is not None else math.inf
    patience = Patience(math.inf if wait_timeout is None else wait_timeout, whole)
    succeeded = False
    try:
        if row.slots is None:
            result = await _call_until_run(row, request, patience)
        else:
            async with slot(row, row.slots, patience.begin()):
                patience.end()
                result = await _call_until_run(row, request, patience)
        succeeded = True
    finally:
        row.calls = row.calls.after(succeeded=succeeded)
    return result


async def _call_until_run(row: Row, request: Request[_T], patience: Patience) -> _T:
    """Call over one connection; over the next one, when the call did not run or may run again."""
    begun = None if request.timeout is DEFAULT else patience.begun
    doubtful: ConnectionLost | None = None  # the loss after which it was sent again although it may have run
    failure: ConnectionLost | CallTimeout | ServerUnavailable
    while True:
        try:
            connection = await ready(row, patience.begin())
        except ServerUnavailable as error:
            failure = error
            break
        patience.end()
        begun = anyio.current_time() if begun is None else begun
        try:
            with row.in_flight():
                return await connection.call(
                    partial(request.send, connection.client),
                    what=request.what,
                    timeout=request.timeout,
                    begun=begun,
                    note_progress=request.note_progress,
                    note_rejection=patience.note_rejection,
                )
        except CallTimeout as error:
            failure = error
            break
        except ConnectionLost as error:
            failure = error
            # While the connection stands, what became of one call tells nothing of the next.
            again = connection.over.is_set() and not error.may_have_run
            if not again and doubtful is None and request.tool is not None and _may_run_twice(row, request.tool):
                again, doubtful = True, error
        if not again or patience.is_over:
            break
    # Behind the blocks: an error raised inside `except` would drag the first one along as its context.
    raise failure if doubtful is None else _truly(failure, doubtful)


def _truly(failure: ConnectionLost | CallTimeout | ServerUnavailable, doubtful: ConnectionLost) -> MCPPoolError:
    """Return the error of a call that was sent again: one that does not say that it has not run."""
    if isinstance(failure, CallTimeout):
        failure.may_have_run = True
    elif not isinstance(failure, ConnectionLost) or not failure.may_have_run:
        return doubtful
    return failure


def _may_run_twice(row: Row, tool: str) -> bool:
    """Tell whether the user has allowed a tool to be sent again when it may have run."""
    if row.spec.resend != ANNOTATED:
        return any(fnmatchcase(tool, glob) for glob in row.spec.resend)
    known = None if row.inventory is None else row.inventory.tools.get(tool)
    hints = None if known is None else known.annotations
    return hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
