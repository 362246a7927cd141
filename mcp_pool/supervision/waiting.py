"""Waits for servers: for an attempt, for one connection, or for many. Each wait is for a condition to hold."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from mcp_pool.errors import ConnectError, ConnectTimeout, ServerUnavailable
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import BackingOff, Closing, Connecting, Failed, Ready

if TYPE_CHECKING:  # loaded with the first pool
    from mcp_pool.connection.connection import Connection


async def wait_until_connected(row: Row) -> None:
    """Request an attempt, unless one is running, and wait until the server is connected.

    Raises:
        ConnectError: The attempt failed, or the server was disconnected in the meantime.
    """
    generation, attempt = row.state.generation, row.request_attempt()

    def settled() -> bool:
        if row.ended.is_set() or row.state.generation > generation or isinstance(row.state, Closing):
            return True
        # For a server that is not persistent, a failure is final only when its child has ended.
        return row.persistent and failure() is not None

    def failure() -> ConnectError | None:
        error = row.last_error
        return error if isinstance(error, ConnectError) and (error.attempt or 0) >= attempt else None

    with row.joined():
        await row.changed.until(settled)
    if row.state.generation > generation:
        return
    if (error := failure()) is not None:
        raise error.again()
    raise ConnectError(
        f"Server {row.server_id!r} {row.close_reason} while it was connecting.",
        advice="Connect it again if you need it.",
        server_id=row.server_id,
        generation=generation,
        attempt=attempt,
    )


async def wait_until_open(rows: Sequence[Row], timeout: float | None) -> None:
    """Wait for the first outcome of each server, and for required servers until they are connected.

    A required server is retried for up to its `connect_timeout` (`timeout` if that is None), or until an error that no
    retry can fix.

    Args:
        rows: The servers.
        timeout: How many seconds to wait for the servers that are not required; None for no limit.

    Raises:
        ConnectError: A required server did not connect. The errors of any others are notes on it.
    """
    started_at = anyio.current_time()

    async def wait_for(row: Row) -> None:
        with anyio.move_on_after(timeout):
            await row.changed.until(lambda: row.ended.is_set() or not isinstance(row.state, Connecting))

    async def wait_for_required(row: Row) -> None:
        own = row.target.limits.connect_timeout
        with anyio.move_on_after(timeout if own is None else own):
            await row.changed.until(lambda: row.state.generation or row.is_final)
        if not row.state.generation:
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(wait_for_required if row.target.spec.required else wait_for, row)
    # A server that connected and was lost again did not fail to connect. Failures that no retry can fix come first.
    missing = [row for row in rows if row.target.spec.required and not row.state.generation]
    missing.sort(key=lambda row: not row.is_final)
    if missing:
        error, *others = [_opening_error(row, anyio.current_time() - started_at) for row in missing]
        for other in others:
            error.add_note(f"Another required server did not connect: {other}")
        raise error


def _opening_error(row: Row, seconds: float) -> ConnectError:
    if isinstance(row.last_error, ConnectError):
        return row.last_error.again()
    return ConnectTimeout(
        f"Server {row.server_id!r} is required, but did not connect within {seconds:.3g} s after the pool was opened.",
        advice="Find out what delays it, or raise its connect_timeout.",
        server_id=row.server_id,
        generation=row.state.generation,
        attempt=row.state.attempt,
    )


async def wait_for_connection(row: Row, deadline: float) -> Connection:
    """Wait for a server's connection.

    Args:
        row: The server.
        deadline: When to stop waiting, on the event loop's clock; a time in the past means not to wait at all.

    Raises:
        ServerUnavailable: The server has failed or is closing, or the time is up.
    """
    if row.connection is None and deadline > anyio.current_time():
        with anyio.CancelScope(deadline=deadline):
            await row.changed.until(lambda: row.is_final or isinstance(row.state, Ready))
    if row.connection is not None and isinstance(row.state, Ready):
        return row.connection
    raise unavailable([row])


@asynccontextmanager
async def call_slot(row: Row, slots: anyio.Semaphore, deadline: float) -> AsyncGenerator[None]:
    """Hold a slot for one call; calls that wait get theirs in order of arrival.

    Args:
        row: The server.
        slots: Its slots.
        deadline: When to stop waiting, on the event loop's clock; a time in the past means not to wait at all.

    Raises:
        ServerUnavailable: The server has failed or is closing, or no slot became free in time.
    """
    acquired, refused = True, False
    try:
        slots.acquire_nowait()
    except anyio.WouldBlock:
        acquired, refused = False, row.is_final
    if not acquired and not refused:
        row.queue.add(wait := anyio.CancelScope(deadline=deadline))
        try:
            with wait:
                await slots.acquire()
                acquired = True
        finally:
            refused = wait not in row.queue
            row.queue.discard(wait)
    if not acquired:  # outside the `except` and `finally`, so that the error keeps its cause and gets no context
        full = f"is already running as many calls as allowed (max_in_flight={row.target.spec.max_in_flight})"
        raise unavailable([row], reason=None if refused else full)
    try:
        yield
    finally:
        slots.release()


async def wait_until_all_ready(rows: Sequence[Row], timeout: float | None) -> None:
    """Wait until all of these servers are connected at once.

    Args:
        rows: The servers.
        timeout: How many seconds to wait; None for no limit.

    Raises:
        ConnectError: A server has failed. `ConnectionLost` if it had been connected before.
        ServerUnavailable: A server was disconnected, or the time is up.
    """
    with anyio.move_on_after(timeout):
        while missing := [row for row in rows if _is_missing(row)]:
            if final := [row for row in missing if row.is_final]:
                raise final[0].state.error.again() if isinstance(final[0].state, Failed) else unavailable(final[:1])
            await _any_settled(missing)
        return
    raise unavailable([row for row in rows if _is_missing(row)], timeout)


async def _any_settled(rows: Sequence[Row]) -> None:
    """Wait until each of these servers has connected, or one of them will not connect by itself."""

    async def wait_for(row: Row) -> None:
        await row.changed.until(lambda: isinstance(row.state, Ready) or row.is_final)
        if row.is_final:
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(wait_for, row)


def _is_missing(row: Row) -> bool:
    return row.ended.is_set() or not isinstance(row.state, Ready)


def unavailable(rows: Sequence[Row], after: float | None = None, reason: str | None = None) -> ServerUnavailable:
    """Return the error that says which servers are missing, and why.

    Args:
        rows: The servers.
        after: How many seconds they were waited for.
        reason: Why they are unavailable, if it is not because of their states.
    """
    reasons = "; ".join(f"{row.server_id!r} {reason or _reason(row)}" for row in rows)
    time = "" if after is None else f" after waiting {after} s"
    only = rows[0] if len(rows) == 1 else None
    who = "they do" if only is None else "it does"
    advice = ""
    if reason is not None:
        advice = "Raise wait_timeout or max_in_flight."
    elif any(isinstance(row.state, Connecting | BackingOff) for row in rows):
        advice = f"Find out why {who} not connect, or allow more time (wait_timeout)."
    elif any(isinstance(row.state, Failed) for row in rows):
        advice = "Fix the problem in the last error, then call restart() or connect()."
    return ServerUnavailable(
        f"{'Servers' if only is None else 'Server'} unavailable{time}: {reasons}.",
        advice=advice,
        server_id=None if only is None else only.server_id,
        generation=None if only is None else only.state.generation,
        cause=None if only is None or only.last_error is None or reason else only.last_error.again(),
        missing=tuple(row.server_id for row in rows),
    )


def _reason(row: Row) -> str:
    if row.ended.is_set() or isinstance(row.state, Closing):
        return row.close_reason
    last = "" if row.last_error is None else f" (last error: {row.last_error.reason.rstrip('.')})"
    if isinstance(row.state, Failed):
        return f"has failed, and automatic reconnects have stopped{last}"
    return f"is {'backing off' if isinstance(row.state, BackingOff) else 'connecting'}{last}"
