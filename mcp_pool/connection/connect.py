"""One connection attempt and its connection: one task opens the client, holds it open and closes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, final

import anyio
import attrs
from anyio.abc import TaskGroup
from mcp import Client
from mcp.client import Transport
from mcp.server import Server as LowLevelServer
from mcp.server.mcpserver import MCPServer
from mcp_types import SubscriptionFilter
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_pool._shared.exceptions import ends_program, plain
from mcp_pool._shared.guard import ForeignCancellation, contained, described
from mcp_pool._shared.log import log
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.servers import HttpServer, InProcessServer, StdioServer
from mcp_pool.connection.attempt import Attempt, explain
from mcp_pool.connection.calls_in_flight import CallsInFlight
from mcp_pool.connection.change_stream import ChangeStream
from mcp_pool.connection.connection import Connection
from mcp_pool.connection.deadline_timer import DeadlineTimer
from mcp_pool.connection.dispatcher import CallbackDispatcher
from mcp_pool.connection.list_changes import ListChanges, declared_changes, told_by
from mcp_pool.connection.listing import Listings, list_all, parts_of, warn_of_dropped_tools
from mcp_pool.errors import ConnectError
from mcp_pool.transports.channel import Channel, DisconnectCause
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit

if TYPE_CHECKING:  # loaded with the first process
    from mcp_pool.transports.stdio.guardian import Guardian

LISTEN_TIMEOUT: Final = 1.0
"""Seconds that an attempt waits for a stream of changes to open before it lists what the server offers. If it opens
later, everything is listed again."""


@final
@attrs.define(eq=False, repr=False)
class Connector:
    """Makes one connection attempt, and holds the connection open until it ends."""

    attempt: Attempt
    """The attempt."""
    deadline: float
    """When the attempt times out, on the event loop's clock."""
    check: Callable[[Listings], None]
    """Called once, synchronously, before the connection opens; raises if what was listed cannot be offered."""
    on_open: Callable[[Connection, Listings], None]
    """Called once, synchronously, with the open connection and what was listed."""
    while_open: Callable[[Connection, Listings], Coroutine[Any, Any, None]]
    """Runs while the connection is open, in its own task; cancelled when the connection closes."""
    on_lost: Callable[[Connection], None]
    """Called at most once, synchronously, when the open connection is lost; not when it is closed on purpose."""
    on_details: Callable[[Connection], None]
    """Called at most once, synchronously, after `on_lost`, when the exit status and the stderr tail are known too."""
    on_suspect: Callable[[], None]
    """Called when the server should be probed soon."""
    guardian: Callable[[], Guardian]
    """Returns the pool's guardian, which starts with the first process."""
    timer: DeadlineTimer
    """Holds the deadlines of the attempt and of the connection's calls."""
    renewal_limit: SessionRenewalLimit
    """How often the server's session may be replaced on suspicion."""
    channel: Channel = attrs.field(init=False)
    """The state of the wire."""
    _calls: CallsInFlight = attrs.field(init=False)
    _connection: Connection | None = attrs.field(default=None, init=False)
    _connecting: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    _given_up: bool = attrs.field(default=False, init=False)
    """Whether the attempt was ended because its channel was lost, and not because its time was up."""

    def __attrs_post_init__(self) -> None:
        target = self.attempt.target
        tracked = not isinstance(target.spec, InProcessServer)
        redactor = target.redactor
        self.channel = Channel(
            tracked,
            self._on_channel_lost,
            self.on_suspect,
            redactor.learn,
            self._on_details,
            redactor.quote,
            self._warn_of_dropped_tools,
        )
        self._calls = CallsInFlight(self.timer)

    async def run(self) -> None:
        """Open the connection, hold it until it ends, and close the client. Must run in its own task.

        Until the connection is open, cancelling the task ends the attempt at once. From then on the task is shielded:
        it ends after `Connection.close` or a loss, so that the client and the server's process have up to
        `close_timeout` for an orderly end.

        Raises:
            ConnectError: The connection could not be opened.
        """
        failure: BaseException | None = None
        self.timer.set(self._connecting, self.deadline)
        try:
            with anyio.CancelScope() as scope, self._connecting:
                # Starting a process is shielded: do not start one for an attempt that is cancelled already.
                await anyio.lowlevel.checkpoint_if_cancelled()
                await contained(self._hold, scope)
        # Outside of the scope, which removes its own cancellation from a group and lets the rest pass.
        except Exception as error:  # noqa: BLE001  # any exception of the SDK is a failure of this server only
            failure = plain(error)
            self._note_breakdown(failure)
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(anyio.get_cancelled_exc_class())
            if cancelled is None or not isinstance(rest, ExceptionGroup):
                raise
            # On trio, an error in the clean-up of a cancelled attempt is raised together with the cancellation.
            raise plain(cancelled) from None
        finally:
            self.timer.forget(self._connecting)
            if self._connection is not None:
                # A signal may raise in any task. Then the program ends, and the server has not failed.
                if self.channel.disconnect_cause is None and not ends_program(sys.exception()):
                    # A cancellation raised by user code ended a task of the SDK: this is a loss, not a planned end.
                    advice = "Check whether its auth, http_client or server cancels a task that it did not start."
                    cause = DisconnectCause("failed unexpectedly", cause=ForeignCancellation(), advice=advice)
                    self.channel.mark_lost(cause)
                self._connection.close("failed unexpectedly")
        if self._connection is None:
            if isinstance(failure, ConnectError):  # the server cannot be offered, or its configuration is invalid
                failure.attempt, failure.generation = self.attempt.number, self.attempt.generation - 1
                raise failure
            timed_out = self._connecting.cancelled_caught and not self._given_up
            raise explain(self.attempt, self.channel, failure, timed_out=timed_out)

    async def _hold(self, scope: anyio.CancelScope) -> None:
        target = self.attempt.target
        dispatcher = CallbackDispatcher(target.server_id, target.limits.callbacks, self._calls)
        async with self._client(dispatcher) as client, anyio.create_task_group() as group:
            await self._listen(client, dispatcher.changes, group)
            listings = await list_all(client, self.channel, target)
            if self.channel.disconnect_cause is not None:  # a channel that is lost by now must not be opened
                await anyio.sleep_forever()  # the attempt is cancelled as soon as the details of the loss are known
            # The listing may have ended just before the attempt was cancelled, and whoever would close the connection
            # has gone by now. Nothing may be awaited between this and `on_open`.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self.check(listings)
            connection = self._open(client, dispatcher, scope)
            self.on_open(connection, listings)
            if dispatcher.takes_notifications:
                group.start_soon(dispatcher.run, name=f"mcp_pool: callbacks of {target.server_id!r}")
            group.start_soon(
                self._keep_current, connection, listings, name=f"mcp_pool: catalog of {target.server_id!r}"
            )
            await connection.closed.wait()
            await _finish_calls(connection, scope)
            group.cancel_scope.cancel()

    async def _keep_current(self, connection: Connection, listings: Listings) -> None:
        """Run `while_open` until the connection is closed, even if it is then drained."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.while_open, connection, listings)
            await connection.closed.wait()
            group.cancel_scope.cancel()

    async def _listen(self, client: Client, changes: ListChanges, group: TaskGroup) -> None:
        """Listen to what a modern server says can change, before it is listed: changes in between would be missed."""
        filters, target = declared_changes(client), self.attempt.target
        if client.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
            changes.told = told_by(filters)
            return
        if not filters:
            return

        def on_open(honored: SubscriptionFilter, missed: bool) -> None:  # noqa: FBT001  # what the stream calls
            changes.told = told_by(honored.model_dump())
            if missed:
                changes.note(*parts_of(client))

        def on_refused(_: Exception) -> None:
            changes.note_refusal()

        stream = ChangeStream(target, self.channel, filters, changes.note_message, on_open, on_refused)
        group.start_soon(stream.run, client, name=f"mcp_pool: changes of {target.server_id!r}")
        with anyio.move_on_after(LISTEN_TIMEOUT):
            await stream.settled.wait()
        stream.settled.set()

    def _open(self, client: Client, dispatcher: CallbackDispatcher, scope: anyio.CancelScope) -> Connection:
        attempt, spec = self.attempt, self.attempt.target.spec
        self.timer.forget(self._connecting)
        scope.shield = True
        connection = Connection(attempt.target, attempt.generation, client, self.channel, self._calls, dispatcher)
        if attempt.discovery is not None:  # made anew, it would not expire as long as there are reconnects
            connection.discovery = attempt.discovery
        self.channel.probe_when_idle = not (connection.is_modern and isinstance(spec, HttpServer))
        self.channel.is_open = True
        self._connection = connection
        return connection

    def _on_channel_lost(self) -> None:
        """End the attempt, or the connection. Called synchronously, so that the state changes at once."""
        connection, cause = self._connection, self.channel.disconnect_cause
        if connection is None:
            if cause is not None and cause.is_complete:
                self._give_up()
        elif not connection.closed.is_set():  # otherwise it was closed on purpose
            connection.note_lost()
            self.on_lost(connection)

    def _on_details(self) -> None:
        """End the attempt, or the calls that have waited for the details of the loss."""
        if self._connection is None:
            self._give_up()
        else:
            self._connection.calls.cancel()
            self.on_details(self._connection)

    def _give_up(self) -> None:
        """End the attempt: its channel is lost."""
        if not self._connecting.cancel_called:
            self._given_up = True
            self._connecting.cancel()

    def _warn_of_dropped_tools(self, dropped: list[tuple[str, str]]) -> None:
        warn_of_dropped_tools(self.attempt.target, dropped)

    def _note_breakdown(self, error: BaseException) -> None:
        """Handle an exception of the SDK, or of an in-process server's own task, as the loss of an open connection."""
        target = self.attempt.target
        if self._connection is None:
            return
        if self.channel.disconnect_cause is None:
            self.channel.mark_lost(DisconnectCause(f"failed with {type(error).__name__}", cause=error))
        else:
            text = target.redactor.text(described(error))
            log("DEBUG", target.server_id, "Closing server {!r}: {}", target.server_id, text)

    def _client(self, dispatcher: CallbackDispatcher) -> Client:
        """Make the client. Only the wires that a program uses are imported, to keep `import mcp_pool` cheap."""
        target, mode = self.attempt.target, self.attempt.mode
        spec = target.spec
        transport: LowLevelServer[Any] | MCPServer | Transport
        match spec:
            case InProcessServer():
                transport = spec.server
            case StdioServer():
                from mcp_pool.transports.stdio.transport import stdio_transport  # noqa: PLC0415  # see above

                transport = stdio_transport(target, spec, self.channel, self.guardian())
            case HttpServer():
                from mcp_pool.transports.http.streamable import streamable_transport  # noqa: PLC0415  # see above

                transport = streamable_transport(
                    target.server_id, spec, self.channel, self.renewal_limit, target.limits.close_timeout
                )
            case InvalidServer():
                raise spec.connect_error(target.server_id, self.attempt.number)
            case _:  # an SseServer is all that remains
                from mcp_pool.transports.http.sse import sse_transport  # noqa: PLC0415  # see above

                transport, mode = sse_transport(target.server_id, spec, self.channel, self.renewal_limit), "legacy"
        options = dict(spec.client_options)
        if self.attempt.discovery is not None:
            options["prior_discover"] = self.attempt.discovery.result
        return Client(transport, mode=mode, **dispatcher.client_arguments(), **options)


async def _finish_calls(connection: Connection, scope: anyio.CancelScope) -> None:
    """Wait, for up to `close_timeout`, until the calls of a closed connection have ended.

    Args:
        connection: The connection.
        scope: The scope of the task that holds it. It is shielded except while the connection is drained.
    """
    if connection.is_draining:
        scope.shield = False
        try:
            await connection.calls.wait_idle()
        finally:
            scope.shield = True
            connection.close("was disconnected")
    scope.deadline = anyio.current_time() + connection.target.limits.close_timeout
    await connection.calls.wait_idle()
