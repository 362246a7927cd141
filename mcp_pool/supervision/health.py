"""Health checks: silent and suspect servers are probed, by one timer for the whole pool."""

from __future__ import annotations

import math
from typing import Final, final

import anyio
import attrs
from anyio.abc import TaskGroup

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.log import log
from mcp_pool.config.policies import HealthCheck
from mcp_pool.connection.connection import Connection
from mcp_pool.transports.channel import Channel, DisconnectCause

TICK: Final = 0.05
"""The shortest time between two rounds, in seconds: hundreds of connections must not each start their own."""


@final
@attrs.define(eq=False, repr=False)
class _Watched:
    """A connection that is being watched."""

    connection: Connection
    check: HealthCheck
    failures: int = 0
    """How many probes in a row have failed."""
    activity_count: int = 0
    """The channel's `activity_count` at the latest probe."""
    probing: anyio.CancelScope | None = None
    """Holds the running probe, if there is one."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing has arrived since the latest probe began."""
        return self.connection.channel.activity_count == self.activity_count

    @property
    def due(self) -> float:
        """When the next probe is due, on the event loop's clock."""
        channel = self.connection.channel
        if self.probing is not None:
            return math.inf
        if channel.is_suspect or (self.failures and self.is_silent):
            return -math.inf
        return channel.last_activity_at + self.check.interval if channel.probe_when_idle else math.inf


@final
@attrs.define(eq=False, repr=False)
class HealthMonitor:
    """Probes the servers of a pool."""

    _watched: dict[Channel, _Watched] = attrs.field(factory=dict[Channel, _Watched], init=False)
    _changed: Changed = attrs.field(factory=Changed, init=False)

    def watch(self, connection: Connection) -> None:
        """Watch a connection that has just opened."""
        check = connection.target.limits.health
        if check is None or not connection.channel.tracked:
            return  # an in-process server cannot hang silently: when it stops, its task ends
        self._watched[connection.channel] = _Watched(connection, check)
        self._changed.notify()

    def forget(self, channel: Channel) -> None:
        """Stop watching the connection over this channel, if there is one."""
        watched = self._watched.pop(channel, None)
        if watched is not None and watched.probing is not None:
            watched.probing.cancel()

    def wake(self) -> None:
        """Start a round now: a connection has become suspect."""
        self._changed.notify()

    async def run(self) -> None:
        """Probe servers until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                with anyio.CancelScope(deadline=self._start_due_probes(group)):
                    await self._changed.wait()  # no change is missed: there is no await in between
                await anyio.sleep(TICK)

    def _start_due_probes(self, group: TaskGroup) -> float:
        """Start the probes that are due, and return when the next one will be."""
        now = anyio.current_time()
        still_open = [watched for watched in self._watched.values() if not watched.connection.closed.is_set()]
        for watched in still_open:
            if watched.due <= now:
                watched.probing = anyio.CancelScope()
                name = f"mcp_pool: probe of {watched.connection.target.server_id!r}"
                group.start_soon(self._probe, watched, watched.probing, name=name)
        return min((watched.due for watched in still_open), default=math.inf)

    async def _probe(self, watched: _Watched, probing: anyio.CancelScope) -> None:
        """Probe a server, wait for activity, and mark its connection lost after too many failures in a row."""
        channel, check = watched.connection.channel, watched.check
        if not watched.is_silent:
            watched.failures = 0  # the previous probe was only answered late
        channel.is_suspect, watched.activity_count = False, channel.activity_count
        probing.deadline = anyio.current_time() + check.timeout
        with probing:
            await _send_probe(watched.connection)
            if watched.is_silent:
                # Rejected at once, for example by a proxy while the server restarts: the server gets the full time.
                await anyio.sleep_forever()
        watched.probing = None
        watched.failures = watched.failures + 1 if watched.is_silent else 0
        if watched.failures >= check.failure_threshold:
            what = f"failed {check.failure_threshold} health checks in a row ({check.timeout} s each)"
            advice = "Check whether the server hangs, or raise the timeout or failure_threshold of its HealthCheck."
            channel.mark_lost(DisconnectCause(what, advice=advice))
        self._changed.notify()


async def _send_probe(connection: Connection) -> None:
    """Send a probe and ignore its result: what counts is what arrives on the channel."""
    try:
        await connection.probe()
    except Exception as error:  # noqa: BLE001  # says nothing about the server, and must not end the monitor
        server_id = connection.target.server_id
        log("DEBUG", server_id, "The probe of server {!r} ended with {}", server_id, type(error).__name__)
