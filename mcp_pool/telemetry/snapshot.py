"""The state of the pool at one moment, as frozen values."""

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
    """The state of one server at one moment. Calls and restarts are counted by id, for the lifetime of the pool.

    Attributes:
        server_id: Its id in the pool.
        status: Its status.
        state: The name of the state behind the status: `"Connecting"`, `"Ready"`, `"Closing"`, `"BackingOff"`,
            `"Failed"`.
        since: When this state began, in seconds on the event loop's clock.
        since_timestamp: When this state began, in seconds since the epoch.
        generation: How many connections there have been.
        attempt: How many connection attempts there have been.
        last_error: The latest failure, even if the server has reconnected since; None if there was none.
        next_retry_at: When the next attempt begins, in seconds on the event loop's clock; None unless it is backing
            off.
        next_retry_timestamp: When the next attempt begins, in seconds since the epoch; None unless it is backing off.
        protocol_version: The protocol version of the connection; None without a connection.
        process_id: The id of the server's process; None without a connection, or if the pool did not start a process
            for it.
        calls_in_flight: Calls that are running.
        calls_done: Calls that returned a result.
        calls_failed: Calls that ended with an error, a timeout or a cancellation.
        tool_errors: Calls in `calls_done` whose result has `is_error` set: the tool itself failed.
        restarts: Reconnects, summed over all times that a server with this id was added to the pool.
    """

    server_id: str
    status: ConnectionStatus
    state: str
    since: float
    since_timestamp: float
    generation: int
    attempt: int
    last_error: ConnectError | ConnectionLost | None
    next_retry_at: float | None
    next_retry_timestamp: float | None
    protocol_version: str | None
    process_id: int | None
    calls_in_flight: int
    calls_done: int
    calls_failed: int
    tool_errors: int
    restarts: int

    @classmethod
    def of(cls, row: Row, counts: Counts) -> ServerSnapshot:
        """Take a snapshot of a server."""
        view = row.view
        state, connection = view.state, view.connection
        backing_off = state if isinstance(state, BackingOff) else None
        return cls(
            server_id=row.server_id,
            status=state.status,
            state=type(state).__name__,
            since=state.since,
            since_timestamp=state.since_timestamp,
            generation=state.generation,
            attempt=state.attempt,
            last_error=view.last_error,
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
        failure = None
        if error is not None:
            failure = {"type": type(error).__name__, "reason": error.reason, "advice": error.advice}
        return {**values, "status": self.status.value, "last_error": failure}


@final
@attrs.frozen(kw_only=True)
class PoolSnapshot:
    """The state of the pool at one moment.

    Attributes:
        time: When it was taken, in seconds on the clock of the pool's event loop; None in another thread or a closed
            pool.
        timestamp: When it was taken, in seconds since the epoch.
        servers: The current servers by id.
        calls_done: Calls that returned a result, on all servers since the pool was created, including those that have
            left.
        calls_failed: Calls that ended in any other way, on all servers.
        tool_errors: Calls in `calls_done` whose result has `is_error` set: the tool itself failed.
        restarts: Reconnects of all servers.
    """

    time: float | None
    timestamp: float
    servers: Mapping[str, ServerSnapshot]
    calls_done: int
    calls_failed: int
    tool_errors: int
    restarts: int

    @classmethod
    def of(cls, rows: Mapping[str, Row], counters: Counters, now: float | None) -> PoolSnapshot:
        """Take a snapshot of all current servers, with the counts of all servers."""
        counts = counters.read()
        servers = {
            server_id: ServerSnapshot.of(row, counts.by_id.get(server_id, Counts())) for server_id, row in rows.items()
        }
        others = counts.excluding(servers)
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
