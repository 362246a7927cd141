"""One live `mcp.Client` over one link: its calls, and how it ends.

Callers use a connection from their own tasks: each call is the SDK's own await inside one cancel scope, which carries
the deadline and is cancelled when the connection goes down, so that no call outlives its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar, final

import anyio
import attrs
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CONNECTION_CLOSED, Implementation, JSONRPCError, JSONRPCResponse, ServerCapabilities
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_pool.callbacks import CallbackDesk
from mcp_pool.clock import CallClock
from mcp_pool.diagnosis import Diagnosis
from mcp_pool.errors import ConnectionLost, plain
from mcp_pool.redaction import Redactor
from mcp_pool.settings import DEFAULT, Limits, Seconds
from mcp_pool.transports.link import CallRecord, Link, Loss, current_call

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
    """What a connected server says of itself."""

    name: str | None
    """Its name; None if it did not say."""
    version: str | None
    """Its version; None if it did not say."""
    protocol_version: str
    """The version of the protocol that the two sides agreed on."""
    capabilities: ServerCapabilities
    """What it can do."""
    instructions: str | None
    """How it wishes to be used; None if it did not say."""

    @classmethod
    def of(cls, client: Client) -> ServerInfo:
        """Take it from a connected client: a client that has been closed cannot be asked any more."""
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
    """A connection that stands, until `over` is set."""

    server_id: str
    """The server's id in the pool."""
    generation: int
    """The number of this connection; the first of a server is 1."""
    limits: Limits
    """The server's bounds."""
    redactor: Redactor = attrs.field(repr=False)
    """Removes the server's secrets from errors."""
    client: Client = attrs.field(repr=False)
    """The SDK's client."""
    link: Link = attrs.field(repr=False)
    """The wire."""
    desk: CallbackDesk = attrs.field(repr=False)
    """Answers what the server calls back."""
    info: ServerInfo = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: ServerInfo.of(self.client), takes_self=True)
    )
    """What the server said of itself in the handshake."""
    over: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the connection goes down, whether it was lost or ended."""
    diagnosis: Diagnosis = attrs.field(init=False, repr=False)
    """Says truly how calls ended."""
    _calls: dict[CallRecord, CallClock] = attrs.field(factory=dict[CallRecord, CallClock], init=False, repr=False)
    _idle: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.diagnosis = Diagnosis(self.server_id, self.generation, self.redactor, self.link)
        self.desk.on_ask, self.desk.on_answer = self._stop_clocks, self._restart_clocks

    def __repr__(self) -> str:
        state = "up" if self.link.loss is None else self.link.loss.what
        return f"<Connection {self.server_id!r} generation {self.generation}, {len(self._calls)} calls, {state}>"

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more calls, while those that run may still be answered."""
        return self.link.loss is not None and self.link.loss.draining

    @property
    def protocol_version(self) -> str:
        """The version that the two sides agreed on."""
        return self.info.protocol_version

    def go_down(self) -> None:
        """Tell the one who holds the connection, and end the calls that cannot be answered. The link has its loss."""
        if not self.is_draining:
            self._cut_all()
        self.over.set()

    def end(self, what: str) -> None:
        """Take the connection down on purpose; nothing happens when it is down.

        Args:
            what: The end of a sentence that begins with the server, for the calls in flight: "was disconnected".
        """
        self.link.on_loss = None
        self.link.lose(Loss(what))
        self._cut_all()
        self.over.set()

    def _cut_all(self) -> None:
        for record in self._calls:
            if not _is_answered(record):  # an answer that has arrived is still the answer
                record.scope.cancel()

    def _stop_clocks(self) -> None:
        """Let silence not count: somebody is being asked on behalf of the server."""
        for clock in self._calls.values():
            clock.stop()

    def _restart_clocks(self) -> None:
        for clock in self._calls.values():
            clock.restart()

    async def ask(self) -> None:
        """Ask the server anything that every server of its era answers; raise whatever the SDK raises."""
        record = CallRecord(self.link, anyio.CancelScope(), sent=0, is_call=False)
        token = current_call.set(record)
        try:
            if self.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
                await self.client.session.send_ping()
            else:
                await self.client.session.send_discover(self.protocol_version)
        finally:
            current_call.reset(token)
            # Or each question that a server leaves unanswered would cost a task and a connection for ever.
            self.link.forget(record)

    async def idle(self) -> None:
        """Wait until no call runs."""
        while self._calls:
            await self._idle.wait()

    def lost(self) -> ConnectionLost:
        """Return the error that tells why the connection is down."""
        return self.diagnosis.lost()

    async def call(
        self,
        send: Callable[[ProgressFnT], Awaitable[_T]],
        *,
        what: str,
        timeout: Seconds,
        begun: float,
        note_progress: NoteProgress | None = None,
        note_rejection: Callable[[], None] | None = None,
    ) -> _T:
        """Make one call and tell truly how it went.

        Args:
            send: Makes the SDK's call; its argument is the progress callback to pass on.
            what: The call in words, for errors.
            timeout: Seconds for the call as a whole; None: no bound; `DEFAULT`: the server's bounds.
            begun: When the bound for the whole began, on the event loop's clock: an explicit `timeout` includes the
                wait for the server, and a call that is sent again goes on.
            note_progress: Called with each progress report of the server; must not wait.
            note_rejection: Called when the server refused the call unread, and with it the connection.

        Raises:
            ConnectionLost: The connection went down.
            CallTimeout: A bound was met; the server was told.
            BadAnswer: The result breaks the protocol or the tool's schema.
            mcp.MCPError: The server's own answer.
        """
        scope = anyio.CancelScope()
        record = CallRecord(self.link, scope, sent=0)
        if self.link.loss is not None:
            raise self.diagnosis.lost(record)
        if timeout is DEFAULT:
            clock = CallClock(scope, self.limits.call_timeout, self.limits.max_call_time, begun, asked=False)
        else:
            clock = CallClock(scope, None, timeout, begun, asked=True)

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if not self.desk.asking:
                clock.restart()
            if note_progress is not None:
                note_progress(progress, total, message)

        record.sent = 0 if self.link.tapped else 1  # in process, sending and running are one
        token = current_call.set(record)
        self._calls[record] = clock
        if self.desk.asking:
            clock.stop()
        # Raised behind the blocks: an error raised inside `except` would drag the first one along as its context,
        # secrets included.
        try:
            with scope:
                return await send(on_progress)
            failure = self.diagnosis.cut_short(record, what, clock)
        except Exception as error:  # noqa: BLE001  # all of them are explained or passed on
            cause = plain(error)
            answered = isinstance(cause, MCPError) and await self._is_answer(cause, record)
            failure = self.diagnosis.explain(cause, record, what, answered=answered)
        finally:
            current_call.reset(token)
            self.link.forget(record)
            del self._calls[record]
            if not self._calls:
                self._idle.set()
                self._idle = anyio.Event()
        if note_rejection is not None and record.is_rejected:
            note_rejection()
        raise failure

    async def _is_answer(self, error: MCPError, record: CallRecord) -> bool:
        """Tell whether an error came from the server, by what passed the taps and never by its code."""
        if isinstance(record.answer, JSONRPCError):
            return record.failure is None
        if self.link.tapped:
            # Answered with a result, and yet an error: one of the user's callbacks declined what the result asked for,
            # or what it said could not be sent any more.
            return record.answer is not None and self.link.loss is None
        if self.link.loss is not None:
            return False
        if (error.code, error.message) != (CONNECTION_CLOSED, "Connection closed"):
            return True
        # In process there is no wire to look at, and a server's task can end before its connection is told. A client
        # whose session has ended refuses any question at once.
        with anyio.move_on_after(PING_TIMEOUT):
            try:
                await self.ask()
            except (MCPError, RuntimeError):
                pass
            else:
                return True
        with anyio.move_on_after(BREAKDOWN_TIMEOUT):
            await self.over.wait()
        self.link.lose(Loss("stopped answering"))
        return False


def _is_answered(record: CallRecord) -> bool:
    """Tell whether the server has answered a call, and does not ask for something first, which may take for ever."""
    answer = record.answer
    return answer is not None and not (
        isinstance(answer, JSONRPCResponse) and answer.result.get("resultType") == "input_required"
    )
