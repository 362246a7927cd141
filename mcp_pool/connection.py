"""One live `mcp.Client` over one link: its calls, and how it ends.

Callers use a connection from their own tasks: each call is the SDK's own await inside one cancel scope, which carries
the deadline and is cancelled when the connection goes down, so that no call outlives its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar, final

import anyio
import attrs
from loguru import logger
from mcp import Client, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CONNECTION_CLOSED, Implementation, JSONRPCError, ServerCapabilities
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

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
ASK_TIMEOUT: Final = 10.0
"""Seconds for a server that is in doubt to answer."""
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
@attrs.define(eq=False)
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
    info: ServerInfo = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: ServerInfo.of(self.client), takes_self=True)
    )
    """What the server said of itself in the handshake."""
    over: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when the connection goes down, whether it was lost or ended."""
    diagnosis: Diagnosis = attrs.field(init=False, repr=False)
    """Says truly how calls ended."""
    _news: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)
    """Set when it is over, and when it is in doubt."""
    _calls: set[CallRecord] = attrs.field(factory=set[CallRecord], init=False, repr=False)
    _idle: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.diagnosis = Diagnosis(self.server_id, self.generation, self.redactor, self.link)

    def __repr__(self) -> str:
        state = "up" if self.link.loss is None else self.link.loss.what
        return f"<Connection {self.server_id!r} generation {self.generation}, {len(self._calls)} calls, {state}>"

    @property
    def calls_in_flight(self) -> int:
        """How many calls run now."""
        return len(self._calls)

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
        self._news.set()

    def end(self, what: str) -> None:
        """Take the connection down on purpose; nothing happens when it is down.

        Args:
            what: The end of a sentence that begins with the server, for the calls in flight: "was disconnected".
        """
        self.link.on_loss = None
        self.link.lose(Loss(what))
        self._cut_all()
        self.over.set()
        self._news.set()

    def _cut_all(self) -> None:
        for record in self._calls:
            if record.answer is None:  # an answer that has arrived is still the answer
                record.scope.cancel()

    async def outlast(self) -> None:
        """Wait until it is over, and ask the server whether it is there when that is in doubt."""
        self.link.on_doubt = self._news_of_doubt
        while not self.over.is_set():
            await self._news.wait()
            if self.over.is_set():
                return
            self._news = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(self._ask, group.cancel_scope)
                await self.over.wait()
                group.cancel_scope.cancel()

    def _news_of_doubt(self) -> None:
        self._news.set()

    async def _ask(self, done: anyio.CancelScope) -> None:
        """Ask the server anything. The link learns by itself when it is not there."""
        try:
            with anyio.move_on_after(ASK_TIMEOUT):
                if self.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
                    await self.client.session.send_ping()
                else:
                    await self.client.session.send_discover(self.protocol_version)
        except Exception as error:  # noqa: BLE001  # an error is an answer, and its absence the link's affair
            logger.bind(server=self.server_id).debug("Server {!r} was asked: {}", self.server_id, type(error).__name__)
        done.cancel()

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
        left: float | None = None,
        note_progress: NoteProgress | None = None,
    ) -> _T:
        """Make one call and tell truly how it went.

        Args:
            send: Makes the SDK's call; its argument is the progress callback to pass on.
            what: The call in words, for errors.
            timeout: Seconds for the call as a whole; None: no bound; `DEFAULT`: the server's bounds.
            left: What remains of an explicit `timeout` after the wait for the server; None: all of it.
            note_progress: Called with each progress report of the server; must not wait.

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
            clock = CallClock(scope, self.limits.call_timeout, self.limits.max_call_time, None)
        else:
            clock = CallClock(scope, None, timeout if left is None else left, timeout)

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            clock.restart()
            if note_progress is not None:
                note_progress(progress, total, message)

        record.sent = 0 if self.link.tapped else 1  # in process, sending and running are one
        token = current_call.set(record)
        self._calls.add(record)
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
            self._calls.discard(record)
            if not self._calls:
                self._idle.set()
                self._idle = anyio.Event()
        raise failure

    async def _is_answer(self, error: MCPError, record: CallRecord) -> bool:
        """Tell whether an error came from the server, by what passed the taps and never by its code."""
        if isinstance(record.answer, JSONRPCError):
            return True
        if self.link.tapped:
            # Answered with a result, and yet an error: one of the user's callbacks declined what the result asked for.
            return record.answer is not None
        if self.link.loss is not None:
            return False
        if error.code != CONNECTION_CLOSED or self.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return True
        # In process there is no wire to look at, and a server's task can end before its connection is told. A client
        # whose session has ended refuses a ping at once.
        with anyio.move_on_after(PING_TIMEOUT):
            try:
                await self.client.session.send_ping()
            except (MCPError, RuntimeError):
                with anyio.move_on_after(BREAKDOWN_TIMEOUT):
                    await self.over.wait()
                self.link.lose(Loss("stopped answering"))
                return False
        return True
