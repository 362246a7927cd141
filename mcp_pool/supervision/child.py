"""One child: connect, stay connected, ask the policy, wait, and again, until it is ended.

The child keeps the connection that it started, and is the only one that ends it; its row only shows it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, final

import anyio
import attrs
from anyio.abc import TaskGroup

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.guard import words_of
from mcp_pool._shared.log import log
from mcp_pool.config.servers import StdioServer
from mcp_pool.connection.attempt import Attempt
from mcp_pool.connection.connect import Connector
from mcp_pool.connection.connection import Connection
from mcp_pool.connection.listing import Inventory
from mcp_pool.errors import ConnectError, ConnectionLost, ConnectTimeout
from mcp_pool.supervision.connect_limiter import ConnectLimiter, ConnectSlot
from mcp_pool.supervision.health import HealthMonitor
from mcp_pool.supervision.restart import decide
from mcp_pool.supervision.row import CLOSED_WITH_ALL, Row
from mcp_pool.supervision.state import BackingOff, Closing, Connecting, Failed, Ready
from mcp_pool.transports.renewals import Renewals

if TYPE_CHECKING:  # loaded with the first process
    from mcp_pool.transports.stdio.guardian import Guardian


@final
@attrs.define(eq=False, repr=False)
class Child:
    """The task that owns one server's connections, one after the other."""

    row: Row
    """Its row, which exists as long as the child."""
    limiter: ConnectLimiter
    """Where attempts wait for a slot."""
    guardian: Callable[[], Guardian]
    """Returns the pool's guardian, which the first process starts."""
    monitor: HealthMonitor
    """Probes a server that is silent."""
    _connection: Connection | None = attrs.field(default=None, init=False)
    """The open connection; the child is the only one that ends it."""
    _restarts: int = attrs.field(default=0, init=False)
    """Restarts in a row, as the policy counts them."""
    _is_legacy: bool = attrs.field(default=False, init=False)
    """Whether the server has shown that it speaks a legacy protocol only, so that attempts need not probe it again."""

    _renewals: Renewals = attrs.field(init=False)
    """When its session was last renewed on suspicion: one connection does not know of the one before."""

    def __attrs_post_init__(self) -> None:
        self._renewals = Renewals(self.row.target.limits.restart.stable_after)

    async def run(self) -> None:
        """Run until cancelled, or until the first attempt of a server that is not persistent has failed."""
        with self.row as row, row.scope:
            try:
                await self._wait_for_predecessors()
                while not self._is_done:  # again: an attempt may have been requested while the last one was drained
                    async with anyio.create_task_group() as connections:
                        while not self._is_done:
                            await self._stay_connected(connections)
                            if not self._is_done:
                                await self._wait_for_retry()
            except anyio.get_cancelled_exc_class():
                # Whoever disconnects one server has it refuse calls first; whoever ends them all just cancels.
                row.refuse(CLOSED_WITH_ALL)
                raise

    @property
    def _is_done(self) -> bool:
        """Whether the server is leaving, or was never connected and is not persistent."""
        return isinstance(self.row.state, Closing) or (isinstance(self.row.state, Failed) and not self.row.persistent)

    async def _wait_for_predecessors(self) -> None:
        """Two connections of one id never overlap: a closing server may still hold a lock, a port or a file."""
        # Shielded: a child that ended before its predecessor would hide it from a third one of the same id.
        with anyio.CancelScope(shield=True):
            for older in self.row.predecessors():
                await older.ended.wait()
        self.row.predecessor = None
        await anyio.lowlevel.checkpoint_if_cancelled()  # the shield has kept it from being noticed

    async def _stay_connected(self, connections: TaskGroup) -> None:
        """Run one connection in a task of its own, from the attempt to its end. The row's state then says what is next.

        A child that is cancelled must not tear the client's tasks down under it. So the connection's task is shielded
        while the connection is open, and a cancellation becomes a close.
        """
        row, attempt, ended = self.row, self.row.state.attempt, anyio.Event()
        connections.start_soon(self._connect, ended, name=f"mcp_pool: connection of {row.server_id!r}")
        try:
            await row.changed.until(lambda: ended.is_set() or row.state.attempt != attempt)
            self._close("is being restarted")
            await ended.wait()
        finally:
            if self._connection is not None:
                row.refuse(CLOSED_WITH_ALL)
                self._close(row.farewell)

    def _close(self, what: str) -> None:
        """End the connection on purpose, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(what)

    async def _connect(self, ended: anyio.Event) -> None:
        """Connect, and hold the connection. Sets `ended` at its end; earlier, where it only finishes its last calls."""
        timeout, slot = self.row.target.limits.connect_timeout, self.limiter.acquire_nowait()
        deadline = math.inf if timeout is None else anyio.current_time() + timeout
        try:
            if slot is None:
                with anyio.CancelScope(deadline=deadline):
                    slot = await self.limiter.acquire()
            if slot is None:
                raise self._queue_timeout()  # noqa: TRY301  # one place settles all failures of an attempt
            await self._hold(deadline, slot, ended)
        except ConnectError as error:
            self._is_legacy = False  # the verdict may have been about another version of the server
            self._settle(error, uptime=0.0)
        except Exception as error:  # noqa: BLE001  # else an attempt that breaks off would end the whole block
            self._settle(self._broken_attempt(plain(error)), uptime=0.0)
        finally:
            if slot is not None:
                self.limiter.release(slot)
            ended.set()
            self.row.changed.notify()

    async def _hold(self, deadline: float, slot: ConnectSlot, ended: anyio.Event) -> None:
        """Connect, once more with the legacy handshake where that is called for, and hold the connection."""
        connector = self._connector(deadline, slot, ended)
        try:
            await connector.run()
        except ConnectError:
            # A process may have exited because of a request it never heard of: connect again, without that request.
            exited_on_it = connector.channel.disconnect_cause is not None and connector.channel.phase == "discover"
            target, mode = self.row.target, connector.attempt.mode
            if mode != "auto" or not exited_on_it or not isinstance(target.spec, StdioServer):
                raise
            self._is_legacy = True
            connector = self._connector(deadline, slot, ended)
            await connector.run()
        finally:
            self.monitor.forget(connector.channel)

    def _connector(self, deadline: float, slot: ConnectSlot, ended: anyio.Event) -> Connector:
        row, target = self.row, self.row.target
        attempt = Attempt(
            target=target,
            number=row.state.attempt,
            generation=row.state.generation + 1,
            mode="legacy" if self._is_legacy else target.spec.mode,
        )
        return Connector(
            attempt,
            deadline,
            on_open=partial(self._on_open, slot),
            on_lost=partial(self._on_lost, ended),
            on_suspect=self.monitor.wake,
            guardian=self.guardian,
            renewals=self._renewals,
        )

    def _on_open(self, slot: ConnectSlot, connection: Connection, inventory: Inventory) -> None:
        self.limiter.release(slot)
        row = self.row
        if isinstance(row.state, Closing):  # while calls on an earlier connection were being drained
            connection.close(row.farewell)
            return
        self._is_legacy = not connection.is_modern and row.target.spec.mode == "auto"
        self._connection = connection
        row.become_ready(connection, inventory)
        self.monitor.watch(connection)
        if connection.generation == 1 and connection.needs_log_level:
            words = "Server {!r} speaks {}: its log messages come only with a log_level in client_options"
            log("WARNING", row.server_id, words, row.server_id, connection.info.protocol_version)
        words = "Server {!r} is connected (connection {}, protocol {}, {} tools)"
        version = connection.info.protocol_version
        log("INFO", row.server_id, words, row.server_id, connection.generation, version, len(inventory.tools))

    def _on_lost(self, ended: anyio.Event, connection: Connection) -> None:
        self._connection = None
        if connection.is_draining:
            ended.set()
        if isinstance(self.row.state, Ready):  # else a restart was requested already, or the server is leaving
            self._settle(connection.lost(), uptime=anyio.current_time() - self.row.state.since)

    def _settle(self, error: ConnectError | ConnectionLost, *, uptime: float) -> None:
        """Ask the policy what follows a failure, and change the row's state. The log is last: sinks are user code."""
        row, state = self.row, self.row.state
        if isinstance(state, Closing):
            return
        now, past = anyio.current_time(), {"attempt": state.attempt, "generation": state.generation}
        decision = None
        if row.persistent and not (isinstance(error, ConnectError) and not error.retryable):
            chance = random.random()  # noqa: S311  # jitter is no secret
            decision = decide(row.target.limits.restart, restarts=self._restarts, uptime=uptime, chance=chance)
        if decision is None:
            row.move(Failed(**past, since=now, error=error))
            stopped = " Automatic reconnects have stopped: call restart() or connect()." if row.persistent else ""
            log("ERROR", row.server_id, "{}{}", error, stopped)
        else:
            self._restarts = decision.restarts
            row.move(BackingOff(**past, since=now, error=error, next_retry_at=now + decision.after))
            log("WARNING", row.server_id, "{} Next attempt in {:.2f} s.", error, decision.after)

    def _queue_timeout(self) -> ConnectTimeout:
        """Return the error of an attempt that got no slot in time."""
        row = self.row
        timeout = row.target.limits.connect_timeout
        return ConnectTimeout(
            f"Server {row.server_id!r} (attempt {row.state.attempt}) got no slot to connect within "
            f"connect_timeout={timeout} s: all {self.limiter.slots} were taken.",
            advice="Raise max_connecting or connect_timeout.",
            server_id=row.server_id,
            generation=row.state.generation,
            phase="spawn",
            attempt=row.state.attempt,
        )

    def _broken_attempt(self, error: BaseException) -> ConnectError:
        """Return the error of an attempt that broke off in a way that nothing accounts for."""
        row = self.row
        return ConnectError(
            f"Server {row.server_id!r} (attempt {row.state.attempt}) could not be connected: the attempt broke off "
            f"with {type(error).__name__}{row.target.redactor.text(words_of(error))}.",
            advice="Fix what raised this; if it is the pool itself, report it with the traceback of the cause.",
            server_id=row.server_id,
            generation=row.state.generation,
            attempt=row.state.attempt,
            cause=row.target.redactor.error(error),
        )

    async def _wait_for_retry(self) -> None:
        """Wait until the back-off is over or an attempt is requested."""
        row, state = self.row, self.row.state
        if isinstance(state, Connecting):
            return
        seconds = state.next_retry_at - anyio.current_time() if isinstance(state, BackingOff) else math.inf
        with anyio.move_on_after(seconds):
            await row.changed.until(lambda: row.state is not state)
        row.request_attempt()
