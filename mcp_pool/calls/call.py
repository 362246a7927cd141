"""One call, from the wait for its server to its result, with a retry on the next connection if that is safe."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, final

import anyio
import attrs
from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CallToolResult

from mcp_pool.calls.wait_budget import WaitBudget
from mcp_pool.config.settings import DEFAULT, Seconds
from mcp_pool.config.spec import ANNOTATED
from mcp_pool.errors import CallTimeout, ConnectionLost, MCPPoolError, ServerUnavailable, ToolHeld
from mcp_pool.supervision.counters import Counts
from mcp_pool.supervision.offering import held_error
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.waiting import call_slot, wait_for_connection

if TYPE_CHECKING:  # loaded with the first pool
    from mcp_pool.connection.connection import NoteProgress

_T = TypeVar("_T")


@final
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Request(Generic[_T]):
    """A call to make."""

    send: Callable[[Client, ProgressFnT], Awaitable[_T]]
    """Makes the SDK's call, with a client and the progress callback to pass to the SDK."""
    what: str
    """The call, as a noun phrase for error messages."""
    timeout: Seconds = DEFAULT
    """Seconds for the whole call, waits included; None: no limit; `DEFAULT`: the server's settings."""
    note_progress: NoteProgress | None = None
    """Called with each progress report."""
    tool: str | None = None
    """The name of the tool on the server; None if the call is not a tool call."""


async def call(row: Row, request: Request[_T], wait_timeout: float | None) -> _T:
    """Make a call, and count how it ended.

    Args:
        row: The server.
        request: The call.
        wait_timeout: Seconds to wait for the server and for a slot; None: no limit.

    Raises:
        ServerUnavailable: There was no connection, or no slot, within `wait_timeout`.
        ToolHeld: The tool waits for approval.
        MCPPoolError: As for `Connection.call`.
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
    """Make the call on the current connection, and again on the next one if it did not run or is safe to retry."""
    started_at = None if request.timeout is DEFAULT else budget.started_at
    first_loss: ConnectionLost | None = None  # the loss after which a call that may have run was retried
    failure: ConnectionLost | CallTimeout | ServerUnavailable | ToolHeld
    while True:
        try:
            connection = await wait_for_connection(row, budget.begin())
        except ServerUnavailable as error:
            failure = error
            break
        budget.end()
        # Also after each wait: the listing of a new connection may be the one that holds the tool.
        if request.tool is not None and (held := row.offering.held(request.tool)) is not None:
            failure = held_error(held)
            break
        started_at = anyio.current_time() if started_at is None else started_at
        try:
            with row.in_flight():
                return await connection.call(
                    partial(request.send, connection.client),
                    what=request.what,
                    timeout=request.timeout,
                    started_at=started_at,
                    note_progress=request.note_progress,
                    note_rejection=budget.note_rejection,
                )
        except CallTimeout as error:
            failure = error
            break
        except ConnectionLost as error:
            failure = error
            # If the connection is still open, only this call was lost, and waiting for another connection is pointless.
            again = connection.closed.is_set() and not error.may_have_run
            if not again and first_loss is None and request.tool is not None and _is_retry_safe(row, request.tool):
                again, first_loss = True, error
        if not again or budget.is_spent:
            break
    # After the blocks: raised inside `except`, the error would have the first one as its context.
    raise failure if first_loss is None else _error_after_retry(failure, first_loss)


def _error_after_retry(
    failure: ConnectionLost | CallTimeout | ServerUnavailable | ToolHeld, first_loss: ConnectionLost
) -> MCPPoolError:
    """Return the error of a call that was retried. It must not say that the call has not run."""
    if isinstance(failure, CallTimeout):
        failure.may_have_run = True
    elif not isinstance(failure, ConnectionLost) or not failure.may_have_run:
        return first_loss
    return failure


def _is_retry_safe(row: Row, tool: str) -> bool:
    """Return whether the user has allowed a retry of this tool when it may have run."""
    spec = row.target.spec
    if spec.retry_safe != ANNOTATED:
        return any(fnmatchcase(tool, glob) for glob in spec.retry_safe)
    known = row.offering.tools.get(tool)
    hints = None if known is None else known.tool.annotations
    return hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
