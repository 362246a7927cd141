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
from mcp_types import CallToolResult

from mcp_pool.calls.wait_budget import WaitBudget
from mcp_pool.config.settings import DEFAULT, Seconds
from mcp_pool.config.spec import ANNOTATED
from mcp_pool.connection.connection import NoteProgress
from mcp_pool.errors import CallTimeout, ConnectionLost, MCPPoolError, ServerUnavailable
from mcp_pool.supervision.counters import Counts
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.waiting import call_slot, wait_for_connection

_T = TypeVar("_T")


@final
@attrs.frozen(kw_only=True, eq=False, repr=False)
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
    budget = WaitBudget(math.inf if wait_timeout is None else wait_timeout, whole)
    succeeded = tool_error = False
    try:
        if row.slots is None:
            result = await _call_until_run(row, request, budget)
        else:
            async with call_slot(row, row.slots, budget.begin()):
                budget.end()
                result = await _call_until_run(row, request, budget)
        succeeded, tool_error = True, isinstance(result, CallToolResult) and result.is_error
    finally:
        row.count(Counts(calls_done=succeeded, calls_failed=not succeeded, tool_errors=tool_error))
    return result


async def _call_until_run(row: Row, request: Request[_T], budget: WaitBudget) -> _T:
    """Call over one connection; over the next one, when the call did not run or is safe to retry."""
    begun = None if request.timeout is DEFAULT else budget.begun
    doubtful: ConnectionLost | None = None  # the loss after which it was sent again although it may have run
    failure: ConnectionLost | CallTimeout | ServerUnavailable
    while True:
        try:
            connection = await wait_for_connection(row, budget.begin())
        except ServerUnavailable as error:
            failure = error
            break
        budget.end()
        begun = anyio.current_time() if begun is None else begun
        try:
            with row.in_flight():
                return await connection.call(
                    partial(request.send, connection.client),
                    what=request.what,
                    timeout=request.timeout,
                    begun=begun,
                    note_progress=request.note_progress,
                    note_rejection=budget.note_rejection,
                )
        except CallTimeout as error:
            failure = error
            break
        except ConnectionLost as error:
            failure = error
            # While the connection is open, what became of one call tells nothing about the next.
            again = connection.closed.is_set() and not error.may_have_run
            if not again and doubtful is None and request.tool is not None and _is_retry_safe(row, request.tool):
                again, doubtful = True, error
        if not again or budget.is_spent:
            break
    # Behind the blocks: an error raised inside `except` would drag the first one along as its context.
    raise failure if doubtful is None else _truthful(failure, doubtful)


def _truthful(failure: ConnectionLost | CallTimeout | ServerUnavailable, doubtful: ConnectionLost) -> MCPPoolError:
    """Return the error of a call that was sent again: one that does not say that it has not run."""
    if isinstance(failure, CallTimeout):
        failure.may_have_run = True
    elif not isinstance(failure, ConnectionLost) or not failure.may_have_run:
        return doubtful
    return failure


def _is_retry_safe(row: Row, tool: str) -> bool:
    """Tell whether the user has allowed a tool to be sent again when it may have run."""
    spec = row.target.spec
    if spec.retry_safe != ANNOTATED:
        return any(fnmatchcase(tool, glob) for glob in spec.retry_safe)
    known = None if row.inventory is None else row.inventory.tools.get(tool)
    hints = None if known is None else known.annotations
    return hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
