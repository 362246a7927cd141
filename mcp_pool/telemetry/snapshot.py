"""The state of the pool at one moment, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from types import MappingProxyType
from typing import Any, final

import attrs

from mcp_pool.errors import ConnectError, ConnectionLost
from mcp_pool.supervision.registry import Row
from mcp_pool.supervision.state import BackingOff, ConnectionStatus


@final
@attrs.frozen(kw_only=True)
class ServerSnapshot:
    """The state of one server at one moment. Times are in seconds, on the event loop's clock."""

    server_id: str
    """Its id in the pool."""
    status: ConnectionStatus
    """Its status."""
    state: str
    """The name of the state behind the status: `"Connecting"`, `"Ready"`, `"Closing"`, `"BackingOff"`, `"Failed"`."""
    since: float
    """When this state began."""
    generation: int
    """How many connections there have been."""
    attempt: int
    """How many connection attempts there have been."""
    last_error: ConnectError | ConnectionLost | None
    """The latest failure, even if the server has reconnected since; None if there was none."""
    next_retry_at: float | None
    """When the next attempt begins; None unless it is backing off."""
    protocol_version: str | None
    """The protocol version of the connection; None without a connection."""
    process_id: int | None
    """The id of the server's process; None without a connection, or if the pool did not start a process for it."""
    calls_in_flight: int
    """Calls that are running."""
    calls_done: int
    """Calls that returned a result."""
    calls_failed: int
    """Calls that ended with an error, a timeout or a cancellation."""
    tool_errors: int
    """Calls in `calls_done` whose result has `is_error` set: the tool itself failed."""
    restarts: int
    """Connections after the first."""

    @classmethod
    def of(cls, row: Row) -> ServerSnapshot:
        """Take a snapshot of a server."""
        state, connection = row.state, row.connection
        return cls(
            server_id=row.server_id,
            status=state.status,
            state=type(state).__name__,
            since=state.since,
            generation=state.generation,
            attempt=state.attempt,
            last_error=row.last_error,
            next_retry_at=state.next_retry_at if isinstance(state, BackingOff) else None,
            protocol_version=None if connection is None else connection.info.protocol_version,
            process_id=None if connection is None else connection.channel.process_id,
            calls_in_flight=row.calls_in_flight,
            calls_done=row.calls.done,
            calls_failed=row.calls.failed,
            tool_errors=row.calls.tool_errors,
            restarts=max(0, state.generation - 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(ServerSnapshot)}
        error = self.last_error
        failure = None
        if error is not None:
            failure = {"type": type(error).__name__, "reason": error.reason, "advice": error.advice}
        return {**values, "status": self.status.value, "last_error": failure}


@final
@attrs.frozen(kw_only=True)
class PoolSnapshot:
    """The state of the pool at one moment."""

    time: float | None
    """When it was taken, in seconds on the clock of the pool's event loop; None in another thread or a closed pool."""
    timestamp: float
    """When it was taken, in seconds since the epoch."""
    servers: Mapping[str, ServerSnapshot]
    """The current servers by id."""

    @classmethod
    def of(cls, rows: Mapping[str, Row], now: float | None) -> PoolSnapshot:
        """Take a snapshot of all current servers."""
        servers = {server_id: ServerSnapshot.of(row) for server_id, row in rows.items()}
        return cls(time=now, timestamp=time(), servers=MappingProxyType(servers))

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot and its totals as plain JSON values."""
        totals = ("connected", "calls_in_flight", "calls_done", "calls_failed", "restarts")
        return {
            "time": self.time,
            "timestamp": self.timestamp,
            "servers": {server_id: server.to_dict() for server_id, server in self.servers.items()},
            **{name: getattr(self, name) for name in totals},
        }

    @property
    def connected(self) -> int:
        """How many servers are connected."""
        return sum(server.status is ConnectionStatus.CONNECTED for server in self.servers.values())

    @property
    def calls_in_flight(self) -> int:
        """Calls that are running, on all current servers."""
        return sum(server.calls_in_flight for server in self.servers.values())

    @property
    def calls_done(self) -> int:
        """Calls that returned a result, on all current servers."""
        return sum(server.calls_done for server in self.servers.values())

    @property
    def calls_failed(self) -> int:
        """Calls that ended in any other way, on all current servers."""
        return sum(server.calls_failed for server in self.servers.values())

    @property
    def restarts(self) -> int:
        """Connections after the first, on all current servers."""
        return sum(server.restarts for server in self.servers.values())
