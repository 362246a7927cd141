"""Waiting for servers: for the outcome of a dial, for one connection, for many. Conditions on rows, never moments."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio

from mcp_pool.catalog import Catalog, ToolEntry
from mcp_pool.connection import Connection
from mcp_pool.errors import ConfigError, ConnectError, ServerUnavailable, UnknownTool
from mcp_pool.lifecycle import BackingOff, Closing, Connecting, Parked, Ready
from mcp_pool.registry import Row
from mcp_pool.settings import DEFAULT, Seconds, timeout_problems


async def outcome(row: Row) -> None:
    """Dial a server, unless a dial is under way, and wait until it is connected.

    Raises:
        ConnectError: The dial failed, or the server was disconnected meanwhile.
    """
    generation, attempt = row.state.generation, row.dial_again()

    def settled() -> bool:
        if row.ended.is_set() or row.state.generation > generation or isinstance(row.state, Closing):
            return True
        # A dial that nobody keeps has settled only when its child has ended.
        return row.kept and failure() is not None

    def failure() -> ConnectError | None:
        error = row.last_error
        if isinstance(error, ConnectError) and (error.attempt or 0) >= attempt:
            return error
        return None

    with row.joined():
        await row.until(settled)
    if row.state.generation > generation:
        return
    if (error := failure()) is not None:
        raise error.again()
    raise ConnectError(
        f"Server {row.server_id!r} was disconnected while it was connecting. Connect it again if it is wanted.",
        server_id=row.server_id,
        generation=generation,
        attempt=attempt,
    )


async def opened(rows: Sequence[Row], timeout: float | None) -> None:
    """Wait for the first outcome of each server.

    Args:
        rows: The servers.
        timeout: Seconds in all for those that are not required; None: no bound.

    Raises:
        ConnectError: A required server failed; the others are not waited for.
    """
    failures: list[ConnectError] = []

    async def wait_for(row: Row) -> None:
        with anyio.move_on_after(None if row.spec.required else timeout):
            await row.until(lambda: row.ended.is_set() or not isinstance(row.state, Connecting))
        # A connection that was made and lost again is no failure to open.
        if row.spec.required and isinstance(row.last_error, ConnectError) and not isinstance(row.state, Ready):
            failures.append(row.last_error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(wait_for, row)
    if failures:
        raise failures[0].again()


async def ready(row: Row, deadline: float) -> Connection:
    """Wait for a server's connection.

    Args:
        row: Whose.
        deadline: Until when, on the event loop's clock; when it has passed: no wait at all.

    Raises:
        ServerUnavailable: It is parked or leaving, or the time is up.
    """
    if not isinstance(row.state, Ready) and deadline > anyio.current_time():
        with anyio.CancelScope(deadline=deadline):
            await row.until(lambda: row.ended.is_set() or not isinstance(row.state, Connecting | BackingOff))
    if isinstance(row.state, Ready):
        return row.state.connection
    raise _unavailable([row])


async def offered(
    catalog: Catalog, name: str, timeout: Seconds, wait_timeout: float | None
) -> tuple[ToolEntry, Seconds]:
    """Wait for the first listing of a server that may offer a tool.

    Args:
        catalog: Where to look.
        name: The tool's name in the catalog.
        timeout: Seconds for the call as a whole, this wait included.
        wait_timeout: Seconds for this wait; None: no bound.

    Returns:
        The tool, and what is left of `timeout`.

    Raises:
        ServerUnavailable: A server that may offer it was not listed in time, or came to be parked or to leave.
        UnknownTool: There is none that may offer it.
        ConfigError: `timeout` is wrong.
    """
    awaited = catalog.awaited(name)
    if awaited is None:
        raise UnknownTool(catalog.why_unknown(name))
    for field, problem in timeout_problems({"timeout": timeout}):
        message = f"server {awaited.server_id!r}: {field} {problem}. Nothing was sent."
        raise ConfigError(message, server_id=awaited.server_id, field=field)
    whole = math.inf if timeout is DEFAULT or timeout is None else timeout
    begun = anyio.current_time()
    with anyio.move_on_after(min(whole, math.inf if wait_timeout is None else wait_timeout)):
        while catalog.find(name) is None and (row := catalog.awaited(name)) is not None:
            awaited = row
            await _listed(row)
    if (entry := catalog.find(name)) is not None:
        return entry, timeout if whole == math.inf else max(0.0, whole - (anyio.current_time() - begun))
    if awaited.inventory is None:
        raise _unavailable([awaited])
    raise UnknownTool(catalog.why_unknown(name))


@asynccontextmanager
async def slot(row: Row, slots: anyio.Semaphore, deadline: float) -> AsyncGenerator[None]:
    """Hold one of the calls that a server may run at once; those who wait get theirs in the order of arrival.

    Args:
        row: Whose.
        slots: Its slots.
        deadline: Until when to wait, on the event loop's clock; when it has passed: no wait at all.

    Raises:
        ServerUnavailable: The server is parked or leaving, or no slot became free in time.
    """
    try:
        slots.acquire_nowait()
    except anyio.WouldBlock:
        if _is_final(row):
            raise _unavailable([row]) from None
        got = False
        row.queue.add(wait := anyio.CancelScope(deadline=deadline))
        try:
            with wait:
                await slots.acquire()
                got = True
        finally:
            refused = wait not in row.queue
            row.queue.discard(wait)
        if not got:
            full = f"runs as many calls as it may at once (max_in_flight={row.spec.max_in_flight})"
            raise _unavailable([row], reason=None if refused else full) from None
    try:
        yield
    finally:
        slots.release()


async def all_ready(rows: Sequence[Row], timeout: float | None) -> None:
    """Wait until all of these servers are connected at once.

    Args:
        rows: The servers.
        timeout: Seconds; None: no bound.

    Raises:
        ConnectError: One is parked; ConnectionLost: likewise, after it had been connected.
        ServerUnavailable: One was disconnected, or the time is up.
    """
    with anyio.move_on_after(timeout):
        while missing := [row for row in rows if _is_missing(row)]:
            if final := [row for row in missing if _is_final(row)]:
                raise final[0].state.error.again() if isinstance(final[0].state, Parked) else _unavailable(final[:1])
            await _any_settled(missing)
        return
    raise _unavailable([row for row in rows if _is_missing(row)], timeout)


async def _any_settled(rows: Sequence[Row]) -> None:
    """Wait until all of these servers have connected once, or one of them will not by itself."""

    async def wait_for(row: Row) -> None:
        await row.until(lambda: isinstance(row.state, Ready) or _is_final(row))
        if _is_final(row):
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(wait_for, row)


async def _listed(row: Row) -> None:
    """Wait until a server has been listed once, or will not be by itself."""
    await row.until(lambda: row.inventory is not None or _is_final(row))


def _is_missing(row: Row) -> bool:
    return row.ended.is_set() or not isinstance(row.state, Ready)


def _is_final(row: Row) -> bool:
    """Tell whether a server will not connect unless somebody asks."""
    return row.ended.is_set() or isinstance(row.state, Parked | Closing)


def _unavailable(rows: Sequence[Row], after: float | None = None, reason: str | None = None) -> ServerUnavailable:
    """Say which servers are missing, and why."""
    reasons = "; ".join(f"{row.server_id!r} {reason or _reason(row)}" for row in rows)
    time = "" if after is None else f" within {after} s"
    only = rows[0] if len(rows) == 1 else None
    on_its_way = reason is None and any(isinstance(row.state, Connecting | BackingOff) for row in rows)
    advice = " Wait longer, or see what keeps it from connecting." if on_its_way else ""
    return ServerUnavailable(
        f"{'Servers' if only is None else 'Server'} not available{time}: {reasons}.{advice}",
        server_id=None if only is None else only.server_id,
        generation=None if only is None else only.state.generation,
        cause=None if only is None or only.last_error is None or reason else only.last_error.again(),
        missing=tuple(row.server_id for row in rows),
    )


def _reason(row: Row) -> str:
    if row.ended.is_set() or isinstance(row.state, Closing):
        return "was disconnected"
    last = "" if row.last_error is None else f" (last error: {row.last_error})"
    if isinstance(row.state, Parked):
        return f"is parked until restart() or connect() is called{last}"
    return f"is {'backing off' if isinstance(row.state, BackingOff) else 'connecting'}{last}"
