"""The pool at one moment, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from types import MappingProxyType
from typing import Any, final

import attrs

from mcp_pool.errors import ConnectError, ConnectionLost
from mcp_pool.supervision.counters import Counters, Counts
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import BackingOff, ConnectionStatus


@final
@attrs.frozen(kw_only=True)
class ServerSnapshot:
    """One server at one moment. Its calls and restarts are counted by its id, for as long as there is the pool."""

    server_id: str
    """Its id in the pool."""
    status: ConnectionStatus
    """Its status."""
    state: str
    """The name of the state behind the status: `"Connecting"`, `"Ready"`, `"Closing"`, `"BackingOff"`, `"Failed"`."""
    since: float
    """When this state began, on the event loop's clock, in seconds."""
    since_timestamp: float
    """The same in seconds since the epoch."""
    generation: int
    """How many connections there have been."""
    attempt: int
    """How many connection attempts there have been."""
    last_error: ConnectError | ConnectionLost | None
    """The latest failure, also when the server has come back since; None if there was none."""
    next_retry_at: float | None
    """When the next attempt begins, on the event loop's clock, in seconds; None unless it is backing off."""
    next_retry_timestamp: float | None
    """The same in seconds since the epoch."""
    protocol_version: str | None
    """The version of the protocol that the connection speaks; None without a connection."""
    process_id: int | None
    """The process id; None without a connection, or for a server without a process of its own."""
    calls_in_flight: int
    """Calls that are running."""
    calls_done: int
    """Calls that brought a result."""
    calls_failed: int
    """Calls that ended with an error, a time-out or a cancellation."""
    tool_errors: int
    """Those of `calls_done` whose result says by `is_error` that the tool failed."""
    restarts: int
    """Connections after the first, each time that it was in the pool."""

    @classmethod
    def of(cls, row: Row, counts: Counts) -> ServerSnapshot:
        """Look at a server."""
        seen = row.seen
        state, connection = seen.state, seen.connection
        backing_off = state if isinstance(state, BackingOff) else None
        return cls(
            server_id=row.server_id,
            status=state.status,
            state=type(state).__name__,
            since=state.since,
            since_timestamp=state.since_timestamp,
            generation=state.generation,
            attempt=state.attempt,
            last_error=seen.last_error,
            next_retry_at=None if backing_off is None else backing_off.next_retry_at,
            next_retry_timestamp=None if backing_off is None else backing_off.next_retry_timestamp,
            protocol_version=None if connection is None else connection.info.protocol_version,
            process_id=None if connection is None else connection.channel.process_id,
            calls_in_flight=row.calls_in_flight,
            calls_done=counts.calls_done,
            calls_failed=counts.calls_failed,
            tool_errors=counts.tool_errors,
            restarts=row.earlier_restarts + max(0, state.generation - 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(ServerSnapshot)}
        error = self.last_error
        told = None
        if error is not None:
            told = {"type": type(error).__name__, "reason": error.reason, "advice": error.advice}
        return {**values, "status": self.status.value, "last_error": told}


@final
@attrs.frozen(kw_only=True)
class PoolSnapshot:
    """The pool at one moment."""

    time: float | None
    """The moment, on the clock of the pool's event loop, in seconds; None from elsewhere, and while it is not open."""
    timestamp: float
    """The same in seconds since the epoch, for other programs."""
    servers: Mapping[str, ServerSnapshot]
    """The current servers by their ids."""
    calls_done: int
    """Calls that brought a result, on all servers since the pool was made, also those that have left."""
    calls_failed: int
    """Calls that ended otherwise, likewise."""
    tool_errors: int
    """Those of `calls_done` whose result says by `is_error` that the tool failed."""
    restarts: int
    """Connections after the first of each server, likewise."""

    @classmethod
    def of(cls, rows: Mapping[str, Row], counters: Counters, now: float | None) -> PoolSnapshot:
        """Look at all current servers, and count what all have been through."""
        counts = counters.read()
        servers = {
            server_id: ServerSnapshot.of(row, counts.by_id.get(server_id, Counts())) for server_id, row in rows.items()
        }
        others = counts.beside(servers)
        return cls(
            time=now,
            timestamp=time(),
            servers=MappingProxyType(servers),
            calls_done=others.calls_done + sum(server.calls_done for server in servers.values()),
            calls_failed=others.calls_failed + sum(server.calls_failed for server in servers.values()),
            tool_errors=others.tool_errors + sum(server.tool_errors for server in servers.values()),
            restarts=others.restarts + sum(server.restarts for server in servers.values()),
        )

    @property
    def connected(self) -> int:
        """How many servers are connected."""
        return sum(server.status is ConnectionStatus.CONNECTED for server in self.servers.values())

    @property
    def calls_in_flight(self) -> int:
        """Calls that are running, on all current servers."""
        return sum(server.calls_in_flight for server in self.servers.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot and its totals as plain JSON values."""
        return {
            **{field.name: getattr(self, field.name) for field in attrs.fields(PoolSnapshot)},
            "connected": self.connected,
            "calls_in_flight": self.calls_in_flight,
            "servers": {server_id: server.to_dict() for server_id, server in self.servers.items()},
        }
