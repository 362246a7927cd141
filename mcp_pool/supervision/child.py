"""One child: it connects, stays connected, asks the policy, waits, and starts over, until it is ended.

The child owns the connection that it started, and nothing else ends it; its row only shows it.
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
from mcp_pool.config.launch_limits import program_of
from mcp_pool.config.servers import StdioServer
from mcp_pool.connection.attempt import Attempt
from mcp_pool.connection.connect import Connector
from mcp_pool.connection.connection import Connection
from mcp_pool.connection.deadline_timer import DeadlineTimer
from mcp_pool.connection.discovery import Discovery
from mcp_pool.connection.listing import Listings
from mcp_pool.errors import ConnectError, ConnectionLost, ConnectTimeout, HttpStatusError
from mcp_pool.supervision.connect_limiter import ConnectLimiter, Slot
from mcp_pool.supervision.health import HealthMonitor
from mcp_pool.supervision.refresher import keep_current
from mcp_pool.supervision.restart import decide, retries_at_once
from mcp_pool.supervision.row import CLOSED_WITH_ALL, Row
from mcp_pool.supervision.state import BackingOff, Closing, Connecting, Failed, Ready
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit

if TYPE_CHECKING:  # loaded with the first process
    from mcp_pool.transports.stdio.guardian import Guardian


@final
@attrs.define(eq=False, repr=False)
class Child:
    """The task that owns one server's connections, one after another."""

    row: Row
    """Its row, which exists exactly as long as the child."""
    limiter: ConnectLimiter
    """Where attempts wait for a slot."""
    guardian: Callable[[], Guardian]
    """Returns the pool's guardian, which is started with the first process."""
    monitor: HealthMonitor
    """Probes the server when it is silent."""
    timer: DeadlineTimer
    """Holds the deadlines of attempts and calls."""
    _connection: Connection | None = attrs.field(default=None, init=False)
    """The open connection; only the child ends it."""
    _restarts: int = attrs.field(default=0, init=False)
    """Restarts in a row, as the policy counts them."""
    _retried_at_once: float = attrs.field(default=-math.inf, init=False)
    """When a retry last did not wait, because the server had exited while idle."""
    _is_legacy: bool = attrs.field(default=False, init=False)
    """Whether the server turned out to support only a legacy protocol, so that attempts skip `server/discover`."""
    _discovery: Discovery | None = attrs.field(default=None, init=False)
    """What a modern server said about itself, so that attempts skip `server/discover`."""
    _renewal_limit: SessionRenewalLimit = attrs.field(init=False)
    """When its session was last renewed on suspicion; kept here because it must outlast a connection."""

    def __attrs_post_init__(self) -> None:
        self._renewal_limit = SessionRenewalLimit(self.row.target.limits.restart.stable_after)

    async def run(self) -> None:
        """Run until cancelled, or until the first attempt of a server that is not persistent has failed."""
        with self.row as row, row.scope:
            try:
                await self._wait_for_predecessors()
                while not self._is_done:  # an attempt may be requested while the last connection drains
                    async with anyio.create_task_group() as connections:
                        while not self._is_done:
                            await self._stay_connected(connections)
                            if not self._is_done:
                                await self._wait_for_retry()
            except anyio.get_cancelled_exc_class():
                # `disconnect` makes a server refuse calls before it cancels the child; ending all of them does not.
                row.refuse(CLOSED_WITH_ALL)
                raise

    @property
    def _is_done(self) -> bool:
        """Whether the server is leaving, or was never connected and is not persistent."""
        return isinstance(self.row.state, Closing) or (isinstance(self.row.state, Failed) and not self.row.persistent)

    async def _wait_for_predecessors(self) -> None:
        """Wait until no other server uses this id: one that is closing may still hold a lock, a port or a file."""
        # Shielded: if this child ended before its predecessor, a third one with the same id would not wait for that.
        with anyio.CancelScope(shield=True):
            for older in self.row.predecessors():
                await older.ended.wait()
        self.row.predecessor = None
        await anyio.lowlevel.checkpoint_if_cancelled()  # the shield has hidden any cancellation

    async def _stay_connected(self, connections: TaskGroup) -> None:
        """Run one connection in its own task, from the attempt to the end. The row's state then says what comes next.

        Cancelling the child must not cancel the client's own tasks before the client has closed. So the connection's
        task is shielded while the connection is open, and a cancellation turns into an orderly close.
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
                self._close(row.close_reason)

    def _close(self, what: str) -> None:
        """Close the connection deliberately, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(what)

    async def _connect(self, ended: anyio.Event) -> None:
        """Connect and hold the connection. Sets `ended` when it ends, or when it only has to finish its last calls."""
        spec, timeout = self.row.target.spec, self.row.target.limits.connect_timeout
        slot = self.limiter.enter(program_of(spec.command) if isinstance(spec, StdioServer) else None)
        deadline = math.inf if timeout is None else anyio.current_time() + timeout
        try:
            if not slot.taken.is_set():
                with anyio.CancelScope(deadline=deadline):
                    await self.limiter.wait(slot)
            if not slot.taken.is_set():
                raise self._queue_timeout(slot)  # noqa: TRY301  # one place handles all failures of an attempt
            await self._hold(deadline, slot, ended)
        except ConnectError as error:
            self._is_legacy, self._discovery = False, None  # the server may be another version by now
            self._settle(error, uptime=0.0)
            self._log_failure()
        except Exception as error:  # noqa: BLE001  # otherwise an unexpected error would end the whole block
            self._settle(self._broken_attempt(plain(error)), uptime=0.0)
            self._log_failure()
        finally:
            self.limiter.release(slot)
            ended.set()
            self.row.changed.notify()

    async def _hold(self, deadline: float, slot: Slot, ended: anyio.Event) -> None:
        """Connect, if necessary a second time with the legacy handshake, and hold the connection."""
        connector = self._connector(deadline, slot, ended)
        try:
            await connector.run()
        except ConnectTimeout:
            raise  # if the process has exited, the pool has ended it
        except ConnectError:
            # Some old servers exit on `server/discover`, which they do not know: connect again without it.
            channel, target, attempt = connector.channel, self.row.target, connector.attempt
            exited_on_discover = channel.disconnect_cause is not None and attempt.phase(channel) == "discover"
            if attempt.mode != "auto" or not exited_on_discover or not isinstance(target.spec, StdioServer):
                raise
            self._is_legacy = True
            connector = self._connector(deadline, slot, ended)
            await connector.run()
        finally:
            self.monitor.forget(connector.channel)

    def _connector(self, deadline: float, slot: Slot, ended: anyio.Event) -> Connector:
        row, target = self.row, self.row.target
        attempt = Attempt(
            target=target,
            number=row.state.attempt,
            generation=row.state.generation + 1,
            mode="legacy" if self._is_legacy else target.spec.mode,
        )
        if self._discovery is not None and not self._discovery.is_expired:
            attempt = attempt.using(self._discovery)
        return Connector(
            attempt,
            deadline,
            check=row.offering.check,
            on_open=partial(self._on_open, slot),
            on_lost=partial(self._on_lost, ended),
            on_details=self._on_details,
            while_open=partial(keep_current, row),
            on_suspect=self.monitor.wake,
            guardian=self.guardian,
            timer=self.timer,
            renewal_limit=self._renewal_limit,
        )

    def _on_open(self, slot: Slot, connection: Connection, listings: Listings) -> None:
        self.limiter.release(slot)
        row = self.row
        if isinstance(row.state, Closing):  # it was disconnected while calls on an earlier connection drained
            connection.close(row.close_reason)
            return
        # Without an answer to `server/discover`, a legacy protocol is only what the SDK assumed after a time-out.
        known = self._is_legacy or connection.channel.discover_answered
        self._is_legacy = known and not connection.is_modern and row.target.spec.mode == "auto"
        self._discovery = connection.discovery if row.target.spec.mode == "auto" else None
        self._connection = connection
        row.become_ready(connection, listings)
        self.monitor.watch(connection)
        if connection.generation == 1 and connection.needs_log_level:
            message = "Server {!r} uses protocol {}: to receive its log messages, set log_level in client_options"
            log("WARNING", row.server_id, message, row.server_id, connection.info.protocol_version)
        message = "Server {!r} is connected (connection {}, protocol {}, {} tools)"
        version = connection.info.protocol_version
        log("INFO", row.server_id, message, row.server_id, connection.generation, version, len(row.offering.tools))

    def _on_lost(self, ended: anyio.Event, connection: Connection) -> None:
        self._connection = None
        if connection.is_draining:
            ended.set()
        if isinstance(self.row.state, Ready):  # otherwise a restart was already requested, or the server is closing
            self._settle(connection.lost(), uptime=anyio.current_time() - self.row.state.since)
            if connection.is_explained:
                self._log_failure()

    def _on_details(self, connection: Connection) -> None:
        error, now = connection.lost(), anyio.current_time()
        policy, elapsed = self.row.target.limits.restart, now - self._retried_at_once
        status, in_flight = error.exit_status, len(connection.calls)
        if at_once := retries_at_once(policy, exit_status=status, in_flight=in_flight, elapsed=elapsed):
            self._retried_at_once = now
        self.row.note_details(error, retry_at_once=at_once)
        self._log_failure()

    def _settle(self, error: ConnectError | ConnectionLost, *, uptime: float) -> None:
        """Ask the policy what follows a failure, and change the row's state."""
        row, state = self.row, self.row.state
        if isinstance(state, Closing):
            return
        now, past = anyio.current_time(), {"attempt": state.attempt, "generation": state.generation}
        decision = None
        if row.persistent and not (isinstance(error, ConnectError) and not error.retryable):
            chance = random.random()  # noqa: S311  # jitter needs no cryptographic randomness
            asked = (error.cause.retry_after if isinstance(error.cause, HttpStatusError) else None) or 0.0
            policy, restarts = row.target.limits.restart, self._restarts
            decision = decide(policy, restarts=restarts, uptime=uptime, chance=chance, retry_after=asked)
        if decision is None:
            row.move(Failed(**past, since=now, error=error))
        else:
            self._restarts = decision.restarts
            row.move(BackingOff(**past, since=now, error=error, next_retry_at=now + decision.after))

    def _log_failure(self) -> None:
        """Log the failure and what follows. Always last, because sinks are user code."""
        row, state = self.row, self.row.state
        gap = "\n" if isinstance(state, BackingOff | Failed) and state.error.stderr_tail else " "
        if isinstance(state, BackingOff):
            seconds = max(0.0, state.next_retry_at - anyio.current_time())
            log("WARNING", row.server_id, "{}{}Next attempt in {:.2f} s.", state.error, gap, seconds)
        elif isinstance(state, Failed):
            stopped = f"{gap}Automatic reconnects have stopped; call restart() or connect()." if row.persistent else ""
            log("ERROR", row.server_id, "{}{}", state.error, stopped)

    def _queue_timeout(self, slot: Slot) -> ConnectTimeout:
        """Return the error for an attempt that got no slot in time."""
        row, full = self.row, slot.full_limits
        timeout = row.target.limits.connect_timeout
        taken = " and ".join(f"all slots of {limit.setting} ({limit.slots})" for limit in full)
        return ConnectTimeout(
            f"Server {row.server_id!r} (attempt {row.state.attempt}) got no connect slot within "
            f"connect_timeout={timeout} s: {taken} were in use.",
            advice=f"Raise {', '.join(limit.setting for limit in full)} or connect_timeout.",
            server_id=row.server_id,
            generation=row.state.generation,
            phase="spawn",
            attempt=row.state.attempt,
        )

    def _broken_attempt(self, error: BaseException) -> ConnectError:
        """Return the error for an attempt that ended with an unexpected exception."""
        row = self.row
        return ConnectError(
            f"Server {row.server_id!r} (attempt {row.state.attempt}) could not be connected: the attempt failed "
            f"unexpectedly with {type(error).__name__}{row.target.redactor.text(words_of(error))}.",
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
            await row.changed.until(lambda: not isinstance(row.state, type(state)))
        row.request_attempt()
