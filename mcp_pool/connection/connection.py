"""One live `mcp.Client` over one channel: its calls, and how it ends.

Callers use a connection from their own tasks: each call awaits the SDK inside one cancel scope. The scope carries the
deadline and is cancelled when the connection is lost, so that no call outlives its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar, final

import anyio
import attrs
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CONNECTION_CLOSED, JSONRPCError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.guard import contained_in_task
from mcp_pool.config.settings import DEFAULT, Seconds
from mcp_pool.config.target import Target
from mcp_pool.connection.call_errors import CallErrors
from mcp_pool.connection.calls_in_flight import CallDeadline, CallsInFlight
from mcp_pool.connection.discovery import Discovery
from mcp_pool.connection.dispatcher import CallbackDispatcher
from mcp_pool.connection.server_info import ServerInfo
from mcp_pool.errors import ConnectionLost
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, current_call

_T = TypeVar("_T")

NoteProgress: TypeAlias = Callable[[float, float | None, str | None], None]
"""Called with each progress report: progress, total and message, as in the SDK."""

BREAKDOWN_TIMEOUT: Final = 0.5
"""Seconds to wait for the task of an in-process server whose session has ended: it ends soon after, with the reason."""
PING_TIMEOUT: Final = 1.0
"""Seconds for an in-process session to answer a ping. One that has ended fails it at once."""


@final
@attrs.define(eq=False, repr=False)
class Connection:
    """A connection. It is open until `closed` is set."""

    target: Target
    """The server."""
    generation: int
    """The number of this connection; a server's first is 1."""
    client: Client
    """The SDK's client."""
    channel: Channel
    """The channel."""
    calls: CallsInFlight
    """The calls in flight."""
    dispatcher: CallbackDispatcher
    """Runs the user's callbacks."""
    info: ServerInfo = attrs.field(init=False)
    """What the server said about itself in the handshake."""
    discovery: Discovery | None = attrs.field(init=False)
    """What a server of the modern protocol said about itself; None if it was not asked, or is in this program."""
    closed: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the connection takes no more calls, whether it was lost or closed on purpose."""
    call_errors: CallErrors = attrs.field(init=False)
    """Makes the errors of calls."""

    def __attrs_post_init__(self) -> None:
        self.info = ServerInfo.of(self.client)
        self.discovery = Discovery.of(self.client) if self.channel.tracked else None
        self.call_errors = CallErrors(self.target, self.generation, self.channel)

    def __repr__(self) -> str:
        cause = self.channel.disconnect_cause
        state = "open" if cause is None else cause.what
        return f"<Connection {self.target.server_id!r} generation {self.generation}, {len(self.calls)} calls, {state}>"

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused while those in flight may still be answered."""
        cause = self.channel.disconnect_cause
        return cause is not None and cause.draining

    @property
    def is_explained(self) -> bool:
        """Whether the connection is closed and the details of why are known."""
        cause = self.channel.disconnect_cause
        return cause is not None and cause.is_complete

    @property
    def is_modern(self) -> bool:
        """Whether the negotiated version is of the modern protocol, which has no handshake."""
        return self.info.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS

    @property
    def needs_log_level(self) -> bool:
        """Whether the logging callback needs a `log_level`: modern servers send log messages only on request."""
        options = self.target.spec.client_options
        return self.is_modern and self.dispatcher.callbacks.logging is not None and not options.get("log_level")

    def note_lost(self) -> None:
        """Close the connection after a loss. Cancel its calls, unless it is draining or details are still to come."""
        if self.is_explained and not self.is_draining:
            self.calls.cancel()
        self.closed.set()

    def close(self, what: str) -> None:
        """Close the connection on purpose, and cancel its calls, draining or not.

        Args:
            what: What happened, as a phrase that follows the server's name: "was disconnected".
        """
        self.closed.set()
        self.channel.mark_lost(DisconnectCause(what))
        self.calls.cancel()

    async def probe(self) -> None:
        """Send a request that every server answers; raise whatever the SDK raises."""
        record = CallRecord(self.channel, anyio.CancelScope(), requests_sent=0, is_call=False)
        token = current_call.set(record)
        try:
            if self.is_modern:
                await self.client.session.send_discover(self.info.protocol_version)
            else:
                await self.client.session.send_ping()
        finally:
            current_call.reset(token)
            # Otherwise each probe that is never answered would keep a task and a connection for ever.
            self.channel.forget(record)

    def lost(self) -> ConnectionLost:
        """Return the error that says why the connection was closed."""
        return self.call_errors.lost()

    async def call(
        self,
        send: Callable[[ProgressFnT], Awaitable[_T]],
        *,
        what: str,
        timeout: Seconds,
        started_at: float,
        note_progress: NoteProgress | None = None,
        note_rejection: Callable[[], None] | None = None,
    ) -> _T:
        """Make one call.

        Args:
            send: Makes the SDK's call; its argument is the progress callback to pass to the SDK.
            what: The call, as a noun phrase for error messages.
            timeout: Seconds for the whole call; None: no limit; `DEFAULT`: the server's settings.
            started_at: When the call started, on the event loop's clock. It is in the past if an explicit `timeout`
                includes the wait for the server, or if the call is sent again.
            note_progress: Called with each progress report; must not block.
            note_rejection: Called when the server rejected the session without running the call.

        Raises:
            ConnectionLost: The connection was lost.
            CallTimeout: The call took too long; the server was told to cancel it.
            InvalidResponse: The result violates the protocol or the tool's schema.
            mcp.MCPError: The server answered with an error.
        """
        scope = anyio.CancelScope()
        record = CallRecord(self.channel, scope, requests_sent=0)
        if self.channel.disconnect_cause is not None:
            raise self.call_errors.lost(record)
        limits, explicit = self.target.limits, timeout is not DEFAULT
        silence, total = (limits.call_timeout, limits.max_call_time) if timeout is DEFAULT else (None, timeout)
        deadline = CallDeadline(self.calls.timer, scope, silence, total, started_at, explicit=explicit)

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            self.calls.note_progress(deadline)
            if note_progress is not None:
                note_progress(progress, total, message)

        record.requests_sent = 0 if self.channel.tracked else 1  # sending to an in-process server means running
        token = current_call.set(record)
        # The failure is raised after the blocks: raised inside `except`, it would have the SDK's exception, secrets
        # included, as its context.
        with self.calls.running(record, deadline):
            try:
                with scope:
                    return await self._send(send, on_progress)
                failure = self.call_errors.cancelled(record, what, deadline)
            except Exception as error:  # noqa: BLE001  # explained or raised below
                cause = plain(error)
                answered = isinstance(cause, MCPError) and await self._is_answer(cause, record)
                failure = self.call_errors.explain(cause, record, what, answered=answered)
            finally:
                current_call.reset(token)
        if note_rejection is not None and record.session_rejected:
            note_rejection()
        raise failure

    async def _send(self, send: Callable[[ProgressFnT], Awaitable[_T]], on_progress: ProgressFnT) -> _T:
        """Make the SDK's call in the caller's task, or in its own task if the server's code would run there as well."""
        if self.channel.tracked or not self.is_modern:
            return await send(on_progress)
        # In the caller's task, a cancellation raised by a tool would look like a cancellation of the caller.
        try:
            return await contained_in_task(send, on_progress)
        except BaseExceptionGroup as group:
            raise plain(group) from None

    async def _is_answer(self, error: MCPError, record: CallRecord) -> bool:
        """Return whether an error came from the server, judging by the tracked streams and never by its code."""
        if isinstance(record.answer, JSONRPCError):
            return record.failure is None
        if self.channel.tracked:
            # An error although the answer was a result: the result required input, and the user's callback declined,
            # or its answer could not be sent.
            return record.answer is not None and self.channel.disconnect_cause is None
        if self.channel.disconnect_cause is not None:
            return False
        if (error.code, error.message) != (CONNECTION_CLOSED, "Connection closed"):
            return True
        # An in-process server has no tracked streams, and its task may have ended before the connection is marked as
        # lost. If its session has ended, a request fails at once.
        with anyio.move_on_after(PING_TIMEOUT):
            try:
                await self.probe()
            except (MCPError, RuntimeError):
                pass
            else:
                return True
        with anyio.move_on_after(BREAKDOWN_TIMEOUT):
            await self.closed.wait()
        self.channel.mark_lost(DisconnectCause("stopped answering"))
        return False
