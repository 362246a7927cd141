"""Counters and gauges of the pool as frozen values: what `MCPPool.snapshot` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import attrs

from mcp_pool.lifecycle import ConnectionStatus


@final
@attrs.frozen
class CallCounts:
    """How the calls to one server ended so far."""

    done: int = 0
    """Calls that brought a result."""
    failed: int = 0
    """Calls that ended with an error, a time-out or a cancellation."""

    def after(self, *, succeeded: bool) -> CallCounts:
        """Return the counts after one more call."""
        return CallCounts(self.done + succeeded, self.failed + (not succeeded))


@final
@attrs.frozen(kw_only=True)
class ServerSnapshot:
    """One server at one moment. Times on the event loop's clock, in seconds."""

    server_id: str
    """Its id in the pool."""
    status: ConnectionStatus
    """How it stands, in one word."""
    state: str
    """The name of the state behind the status: the class in `mcp_pool.lifecycle`."""
    since: float
    """When this state began."""
    generation: int
    """How many connections there have been."""
    attempt: int
    """How many dials there have been."""
    last_error: Exception | None
    """The latest failure, also when the server has come back since; None if there was none."""
    next_try: float | None
    """When the next dial begins; None unless it is backing off."""
    protocol_version: str | None
    """The version of the protocol that the connection speaks; None without a connection."""
    process_id: int | None
    """The process id; None without a connection, or for a server without a process of its own."""
    calls_in_flight: int
    """Calls that run now."""
    calls_done: int
    """Calls that brought a result."""
    calls_failed: int
    """Calls that ended with an error, a time-out or a cancellation."""
    restarts: int
    """Connections after the first."""


@final
@attrs.frozen(kw_only=True)
class PoolSnapshot:
    """The pool at one moment."""

    time: float
    """The moment, on the event loop's clock, in seconds; 0 when the pool is not open."""
    servers: Mapping[str, ServerSnapshot]
    """The living servers by their ids."""

    @property
    def connected(self) -> int:
        """How many servers are connected."""
        return sum(server.status is ConnectionStatus.CONNECTED for server in self.servers.values())

    @property
    def calls_in_flight(self) -> int:
        """Calls that run now, on all servers."""
        return sum(server.calls_in_flight for server in self.servers.values())

    @property
    def calls_done(self) -> int:
        """Calls that brought a result, on all living servers."""
        return sum(server.calls_done for server in self.servers.values())

    @property
    def calls_failed(self) -> int:
        """Calls that ended otherwise, on all living servers."""
        return sum(server.calls_failed for server in self.servers.values())

    @property
    def restarts(self) -> int:
        """Connections after the first, on all living servers."""
        return sum(server.restarts for server in self.servers.values())
