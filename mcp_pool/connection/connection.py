"""One live `mcp.Client` over one channel: its calls, and how it ends.

Callers use a connection from their own tasks: each call is the SDK's own await inside one cancel scope, which carries
the deadline and is cancelled when the connection is lost, so that no call outlives its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar, final

import anyio
import attrs
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CONNECTION_CLOSED, Implementation, JSONRPCError, ServerCapabilities
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.guard import contained_in_task
from mcp_pool.config.settings import DEFAULT, Seconds
from mcp_pool.config.target import Target
from mcp_pool.connection.call_errors import CallErrors
from mcp_pool.connection.calls_in_flight import CallDeadline, CallsInFlight
from mcp_pool.connection.dispatcher import CallbackDispatcher
from mcp_pool.errors import ConnectionLost
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, current_call

_T = TypeVar("_T")

NoteProgress: TypeAlias = Callable[[float, float | None, str | None], None]
"""Takes a report of progress: how much, of how much, and a message."""

BREAKDOWN_TIMEOUT: Final = 0.5
"""Seconds for a server in this program, whose session has ended, to tell why: its task ends a moment later."""
PING_TIMEOUT: Final = 1.0
"""Seconds for a session to answer a ping; one that has ended refuses it at once."""


@final
@attrs.frozen
class ServerInfo:
    """What a connected server says about itself."""

    name: str | None
    """Its name; None if it did not say."""
    version: str | None
    """Its version; None if it did not say."""
    protocol_version: str
    """The version of the protocol that the two sides agreed on."""
    capabilities: ServerCapabilities
    """What it can do."""
    instructions: str | None
    """How it wants to be used; None if it did not say."""

    @classmethod
    def of(cls, client: Client) -> ServerInfo:
        """Take it from a connected client; a closed one cannot tell any more."""
        named: Implementation | None = client.server_info
        return cls(
            name=None if named is None else named.name,
            version=None if named is None else named.version,
            protocol_version=client.protocol_version,
            capabilities=client.server_capabilities,
            instructions=client.instructions,
        )


@final
@attrs.define(eq=False, repr=False)
class Connection:
    """A connection that is open, until `closed` is set."""

    target: Target
    """The server."""
    generation: int
    """The number of this connection; the first of a server is 1."""
    client: Client
    """The SDK's client."""
    channel: Channel
    """The channel."""
    calls: CallsInFlight
    """The calls that run."""
    dispatcher: CallbackDispatcher
    """Answers the server's requests."""
    info: ServerInfo = attrs.field(init=False)
    """What the server said about itself in the handshake."""
    closed: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the connection takes no more calls, whether it was lost or ended on purpose."""
    call_errors: CallErrors = attrs.field(init=False)
    """Says truly how calls ended."""

    def __attrs_post_init__(self) -> None:
        self.info = ServerInfo.of(self.client)
        self.call_errors = CallErrors(self.target, self.generation, self.channel)

    def __repr__(self) -> str:
        cause = self.channel.disconnect_cause
        state = "open" if cause is None else cause.what
        return f"<Connection {self.target.server_id!r} generation {self.generation}, {len(self.calls)} calls, {state}>"

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more calls, while those that run may still be answered."""
        cause = self.channel.disconnect_cause
        return cause is not None and cause.draining

    @property
    def is_modern(self) -> bool:
        """Whether the two sides agreed on a version of the protocol without handshake."""
        return self.info.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS

    @property
    def needs_log_level(self) -> bool:
        """Whether a logging callback will never be called: modern servers send log messages only on request."""
        options = self.target.spec.client_options
        return self.is_modern and self.dispatcher.callbacks.logging is not None and not options.get("log_level")

    def note_lost(self) -> None:
        """End the calls that cannot be answered any more. The channel holds the cause."""
        if not self.is_draining:
            self.calls.cut()
        self.closed.set()

    def close(self, what: str) -> None:
        """End the connection on purpose; on one that is being drained, end the drain.

        Args:
            what: The end of a sentence that begins with the server, for the calls that run: "was disconnected".
        """
        self.closed.set()
        self.channel.mark_lost(DisconnectCause(what))
        self.calls.cut()

    async def probe(self) -> None:
        """Send a request that every server of its protocol answers; raise whatever the SDK raises."""
        record = CallRecord(self.channel, anyio.CancelScope(), requests_sent=0, is_call=False)
        token = current_call.set(record)
        try:
            if self.is_modern:
                await self.client.session.send_discover(self.info.protocol_version)
            else:
                await self.client.session.send_ping()
        finally:
            current_call.reset(token)
            # Or each probe that a server leaves unanswered would cost a task and a connection for ever.
            self.channel.forget(record)

    def lost(self) -> ConnectionLost:
        """Return the error that tells why the connection is closed."""
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
        """Make one call and tell truly how it went.

        Args:
            send: Makes the SDK's call; its argument is the progress callback to pass on.
            what: The call in words, for errors.
            timeout: Seconds for the call as a whole; None: no bound; `DEFAULT`: the server's bounds.
            started_at: When that time began, on the event loop's clock: an explicit `timeout` includes the
                wait for the server, and a call that is sent again goes on.
            note_progress: Called with each progress report of the server; must not wait.
            note_rejection: Called when the server refused the call unread, and with it the session.

        Raises:
            ConnectionLost: The connection was lost.
            CallTimeout: A bound was met; the server was told.
            InvalidResponse: The result breaks the protocol or the tool's schema.
            mcp.MCPError: The server's own answer.
        """
        scope = anyio.CancelScope()
        record = CallRecord(self.channel, scope, requests_sent=0)
        if self.channel.disconnect_cause is not None:
            raise self.call_errors.lost(record)
        limits, explicit = self.target.limits, timeout is not DEFAULT
        silence, total = (limits.call_timeout, limits.max_call_time) if timeout is DEFAULT else (None, timeout)
        deadline = CallDeadline(scope, silence, total, started_at, explicit=explicit)

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            self.calls.note_progress(deadline)
            if note_progress is not None:
                note_progress(progress, total, message)

        record.requests_sent = 0 if self.channel.tracked else 1  # in process, sending and running are one
        token = current_call.set(record)
        # Raised behind the blocks: an error raised inside `except` would drag the first one along as its context,
        # secrets included.
        with self.calls.running(record, deadline):
            try:
                with scope:
                    return await self._send(send, on_progress)
                failure = self.call_errors.cut_short(record, what, deadline)
            except Exception as error:  # noqa: BLE001  # all of them are explained or passed on
                cause = plain(error)
                answered = isinstance(cause, MCPError) and await self._is_answer(cause, record)
                failure = self.call_errors.explain(cause, record, what, answered=answered)
            finally:
                current_call.reset(token)
        if note_rejection is not None and record.session_rejected:
            note_rejection()
        raise failure

    async def _send(self, send: Callable[[ProgressFnT], Awaitable[_T]], on_progress: ProgressFnT) -> _T:
        """Make the SDK's call, in the task of the caller unless the server itself would run in it."""
        if self.channel.tracked or not self.is_modern:
            return await send(on_progress)
        # A tool that ends with a cancellation would be taken for one of the caller.
        try:
            return await contained_in_task(send, on_progress)
        except BaseExceptionGroup as group:
            raise plain(group) from None

    async def _is_answer(self, error: MCPError, record: CallRecord) -> bool:
        """Tell whether an error came from the server, by what passed the streams and never by its code."""
        if isinstance(record.answer, JSONRPCError):
            return record.failure is None
        if self.channel.tracked:
            # Answered with a result, and yet an error: one of the user's callbacks declined what the result asked for,
            # or what it said could not be sent any more.
            return record.answer is not None and self.channel.disconnect_cause is None
        if self.channel.disconnect_cause is not None:
            return False
        if (error.code, error.message) != (CONNECTION_CLOSED, "Connection closed"):
            return True
        # In process there is no wire to look at, and a server's task can end before its connection is told. A client
        # whose session has ended refuses any request at once.
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
