"""Listens to a modern server for changes, on a stream that is opened again when it ends.

MCP specification 2026-07-28, `subscriptions/listen`. Legacy servers send notifications without being asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, final

import anyio
import attrs
from mcp import Client, MCPError
from mcp.client.subscriptions import ServerEvent
from mcp_types import JSONRPCError, SubscriptionFilter

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.guard import contained
from mcp_pool._shared.log import log
from mcp_pool.config.target import Target
from mcp_pool.transports.channel import CallRecord, Channel, current_call

CLIENT_ERROR: Final = 4
"""The first digit of an HTTP status that says that the request itself is wrong."""
MIN_DELAY: Final = 0.25
"""Seconds between two streams at least, whatever the restart policy says: a server that ends each at once must not keep
the program busy."""


@final
@attrs.define(eq=False, repr=False)
class ChangeStream:
    """Tells what changes on one server while a connection is open."""

    target: Target
    """The server."""
    channel: Channel
    """The channel of the connection."""
    filters: dict[str, Any]
    """What to listen to: the arguments of `mcp.Client.listen`."""
    on_event: Callable[[ServerEvent], None]
    """Called with each event; must not block."""
    on_open: Callable[[SubscriptionFilter, bool], None]
    """Called when a stream opens, with what the server agreed to tell, and whether events may have been missed: whether
    `settled` had been set before."""
    on_refused: Callable[[Exception], None] = attrs.field(default=lambda _: None)
    """Called when the server refuses to open a stream."""
    settled: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the first stream is open, or was refused, or nobody waits for it any more."""

    async def run(self, client: Client) -> None:
        """Listen until cancelled, or until the server refuses to open a stream, which is final for the connection."""
        failures, server_id = 0, self.target.server_id
        while self.channel.disconnect_cause is None:
            opened_at = anyio.current_time()
            record = CallRecord(self.channel, anyio.CancelScope(), requests_sent=0, is_call=False)
            current_call.set(record)  # in the context of this task, from where the SDK's task for the stream gets it
            try:
                await contained(self._listen, client)
            except Exception as error:  # noqa: BLE001  # a stream that fails is opened again
                end = plain(error)
                if isinstance(end, MCPError) and _is_refusal(record):
                    self.on_refused(end)
                    log("DEBUG", server_id, "Server {!r} does not tell of changes: it refused to", server_id)
                    break
                log("DEBUG", server_id, "Server {!r}: its stream of changes ended: {}", server_id, type(end).__name__)
            finally:
                self.channel.forget(record)
            policy, now = self.target.limits.restart, anyio.current_time()
            # One probe tells a server that has gone from a proxy that cuts idle streams.
            self.channel.suspect()
            failures = 1 if now - opened_at >= policy.stable_after else failures + 1
            await anyio.sleep(max(MIN_DELAY, policy.delay(failures - 1, random.random())))  # noqa: S311  # only jitter
        self.settled.set()

    async def _listen(self, client: Client) -> None:
        async with client.listen(**self.filters) as stream:
            self.on_open(stream.honored, self.settled.is_set())
            self.settled.set()
            async for event in stream:
                self.on_event(event)


def _is_refusal(record: CallRecord) -> bool:
    """Return whether the server itself rejected the request. A stream that ended, or met an outage, is opened again."""
    if record.channel.tracked and not isinstance(record.answer, JSONRPCError):
        return False
    if record.failure is None:
        return True
    status = record.failure.status or 0
    return status // 100 == CLIENT_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS
