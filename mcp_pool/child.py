"""The life of one child: connect, serve, ask the policy, wait, and again, until it is ended."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import final

import anyio
import attrs
from anyio.abc import TaskGroup
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_pool.config import StdioServer
from mcp_pool.connection import Connection
from mcp_pool.dial import Dial, hold_connection
from mcp_pool.errors import ConnectError, ConnectionLost, plain
from mcp_pool.gate import Gate, Place
from mcp_pool.health import Monitor
from mcp_pool.inventory import Inventory
from mcp_pool.lifecycle import BackingOff, Closing, Connecting, Parked
from mcp_pool.log import log
from mcp_pool.policies import Park, decide
from mcp_pool.registry import Row
from mcp_pool.transports.session import Renewals


@final
@attrs.define(eq=False, repr=False)
class Child:
    """The task that owns one server's connections, one after the other."""

    row: Row
    """Its row, which lives as long as the child."""
    gate: Gate = attrs.field(repr=False)
    """Where dials wait for their turn."""
    monitor: Monitor = attrs.field(repr=False)
    """Asks a server that says nothing."""
    _restarts: int = attrs.field(default=0, init=False)
    """Restarts in a row, as the policy counts them."""
    _legacy: bool = attrs.field(default=False, init=False)
    """Whether the server has shown that it speaks the handshake era only, so that dials need not ask again."""

    _renewals: Renewals = attrs.field(
        init=False,
        repr=False,
        default=attrs.Factory(lambda self: Renewals(self.row.limits.restart.stable_after), takes_self=True),
    )
    """When its session was last given up on mere evidence: one connection does not know of the one before."""

    async def run(self) -> None:
        """Live until cancelled, or until a first dial that nobody keeps has failed."""
        with self.row as row, row.scope:
            try:
                await self._live()
            except anyio.get_cancelled_exc_class():
                row.refuse()
                raise

    async def _live(self) -> None:
        await self._wait_for_predecessors()
        while not self._is_done:  # once more: somebody may have asked for a dial while the last connection was drained
            async with anyio.create_task_group() as connections:
                while not self._is_done:
                    await self._connect_and_serve(connections)
                    if not self._is_done:
                        await self._wait_for_dial()

    @property
    def _is_done(self) -> bool:
        """Whether the server is leaving, or was never connected and nobody keeps it."""
        return isinstance(self.row.state, Closing) or (isinstance(self.row.state, Parked) and not self.row.kept)

    async def _wait_for_predecessors(self) -> None:
        """Two connections of one id never overlap: a closing server may still hold a lock, a port or a file."""
        # Shielded: a child that ended before its predecessor would hide it from a third one of the same id.
        with anyio.CancelScope(shield=True):
            for older in self.row.predecessors():
                await older.ended.wait()
        self.row.predecessor = None
        await anyio.lowlevel.checkpoint_if_cancelled()  # the shield has kept it from being noticed

    async def _connect_and_serve(self, connections: TaskGroup) -> None:
        """Run one connection, from the dial to its end, in a task of its own. The row's state then tells what is next.

        A child that is cancelled must not tear the client's tasks down under it. So the connection's task is shielded
        while the connection stands, and the cancellation is turned into the word that it is over.
        """
        row, over = self.row, anyio.Event()
        connections.start_soon(self._connect, over, name=f"mcp_pool: connection of {row.server_id!r}")
        try:
            await over.wait()
        finally:
            if (connection := row.connection) is not None:
                row.refuse()
                connection.end("was disconnected")

    async def _connect(self, over: anyio.Event) -> None:
        """Dial, and hold the connection. Sets `over` at its end; earlier, where it only finishes its last calls."""
        place = await self.gate.enter()
        try:
            timeout = self.row.limits.connect_timeout
            deadline = math.inf if timeout is None else anyio.current_time() + timeout
            await self._hold(deadline, on_open=partial(self._on_open, place), on_loss=partial(self._on_loss, over))
        except ConnectError as error:
            self._legacy = False  # the verdict may have been about another version of the server
            self._settle(error, uptime=0.0)
        except Exception as error:  # noqa: BLE001  # else an attempt that breaks off would end the whole block
            self._settle(self._broken_attempt(plain(error)), uptime=0.0)
        finally:
            self.gate.leave(place)
            over.set()

    async def _hold(
        self,
        deadline: float,
        *,
        on_open: Callable[[Connection, Inventory], None],
        on_loss: Callable[[Connection], None],
    ) -> None:
        """Dial, once more in the older way where that is called for, and hold the connection."""
        dial = self._dial(deadline)
        try:
            await hold_connection(dial, on_open=on_open, on_loss=on_loss)
        except ConnectError:
            # A process may have died of a question it never heard of: dial again, without asking.
            died_of_it = dial.link.loss is not None and dial.link.phase == "discover"
            if dial.mode != "auto" or not died_of_it or not isinstance(dial.spec, StdioServer):
                raise
            self._legacy = True
            dial = self._dial(deadline)
            await hold_connection(dial, on_open=on_open, on_loss=on_loss)
        finally:
            self.monitor.forget(dial.link)

    def _broken_attempt(self, error: BaseException) -> ConnectError:
        """Return the error of an attempt that broke off in a way that nothing accounts for."""
        row = self.row
        return ConnectError(
            f"Server {row.server_id!r} (attempt {row.state.attempt}) could not be connected: the attempt broke off "
            f"with {type(error).__name__}. See the cause.",
            server_id=row.server_id,
            generation=row.state.generation,
            attempt=row.state.attempt,
            cause=row.redactor.error(error),
        )

    def _dial(self, deadline: float) -> Dial:
        row = self.row
        return Dial(
            server_id=row.server_id,
            spec=row.spec,
            limits=row.limits,
            redactor=row.redactor,
            attempt=row.state.attempt,
            generation=row.state.generation + 1,
            mode="legacy" if self._legacy else row.spec.mode,
            deadline=deadline,
            renewals=self._renewals,
        )

    def _on_open(self, place: Place, connection: Connection, inventory: Inventory) -> None:
        self.gate.leave(place)
        if isinstance(self.row.state, Closing):  # while calls on an earlier connection were being drained
            connection.end("was disconnected")
            return
        self._legacy = connection.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS and self.row.spec.mode == "auto"
        self.row.become_ready(connection, inventory)
        self.monitor.watch(connection)
        options, modern = self.row.spec.client_options, connection.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS
        silent = modern and connection.desk.callbacks.logging and not options.get("log_level")
        if silent and connection.generation == 1:
            words = "Server {!r} speaks {}: its log messages come only with a log_level in client_options"
            log("WARNING", self.row.server_id, words, self.row.server_id, connection.protocol_version)
        log(
            "INFO",
            self.row.server_id,
            "Server {!r} is connected (connection {}, protocol {}, {} tools)",
            self.row.server_id,
            connection.generation,
            connection.protocol_version,
            len(inventory.tools),
        )

    def _on_loss(self, over: anyio.Event, connection: Connection) -> None:
        self._settle(connection.lost(), uptime=anyio.current_time() - self.row.state.since)
        if connection.is_draining:
            over.set()

    def _settle(self, error: ConnectError | ConnectionLost, *, uptime: float) -> None:
        """Ask the policy what follows a failure, and put it into the row's state."""
        row, state = self.row, self.row.state
        if isinstance(state, Closing):
            return
        now = anyio.current_time()
        hopeless = not row.kept or (isinstance(error, ConnectError) and error.needs_person)
        chance = random.random()  # noqa: S311  # jitter is no secret
        decision = (
            Park() if hopeless else decide(row.limits.restart, restarts=self._restarts, uptime=uptime, chance=chance)
        )
        if isinstance(decision, Park):
            row.move(Parked(attempt=state.attempt, generation=state.generation, since=now, error=error))
            parked = " It is parked until somebody asks for it." if row.kept else ""
            log("ERROR", row.server_id, "{}{}", error, parked)
        else:
            self._restarts = decision.restarts
            retry_at = now + decision.after
            row.move(
                BackingOff(
                    attempt=state.attempt, generation=state.generation, since=now, error=error, retry_at=retry_at
                )
            )
            log("WARNING", row.server_id, "{} Next try in {:.2f} s.", error, decision.after)

    async def _wait_for_dial(self) -> None:
        """Wait until the back-off is over or somebody asks."""
        row, state = self.row, self.row.state
        if isinstance(state, Connecting):
            return
        seconds = state.retry_at - anyio.current_time() if isinstance(state, BackingOff) else math.inf
        with anyio.move_on_after(seconds):
            await row.until(lambda: row.state is not state)
        row.dial_again()
