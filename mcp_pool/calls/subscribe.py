"""A subscription to a resource, from the request for it to its end."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from mcp_pool.errors import CallTimeout
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.subscriptions import Subscription
from mcp_pool.supervision.waiting import wait_for_connection


@asynccontextmanager
async def subscribed(row: Row, uri: str, wait_timeout: float | None) -> AsyncGenerator[Subscription]:
    """Hold a subscription that the server has confirmed.

    Args:
        row: The server.
        uri: The resource.
        wait_timeout: Seconds to wait for the server; None: no limit.

    Raises:
        ServerUnavailable: There was no connection within `wait_timeout`, or the server left the pool.
        CallTimeout: The server did not confirm the subscription within its `call_timeout`.
        mcp.MCPError: The server refused it.
    """
    await wait_for_connection(row, math.inf if wait_timeout is None else anyio.current_time() + wait_timeout)
    timeout = row.target.limits.call_timeout
    with row.subscriptions.opened(row.server_id, uri) as feed:
        with anyio.move_on_after(timeout):
            await feed.changed.until(lambda: feed.is_confirmed or feed.end)
        if feed.end is not None:
            raise feed.end
        if not feed.is_confirmed:
            reason = f"Server {row.server_id!r} did not confirm the subscription within call_timeout={timeout} s."
            advice = "Find out what it is waiting for, or raise call_timeout."
            raise CallTimeout(reason, advice=advice, server_id=row.server_id, phase="call", may_have_run=True)
        yield Subscription(feed)
