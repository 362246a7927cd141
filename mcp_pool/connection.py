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
from mcp.client import InputRequiredRoundsExceededError
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CONNECTION_CLOSED, Implementation, JSONRPCError, ServerCapabilities
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from mcp_pool.clock import CallClock
from mcp_pool.errors import BadAnswer, CallTimeout, ConfigError, ConnectionLost, plain
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
    _calls: set[CallRecord] = attrs.field(factory=set[CallRecord], init=False, repr=False)
    _idle: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)

    def __repr__(self) -> str:
        state = "up" if self.link.loss is None else self.link.loss.what
        return f"<Connection {self.server_id!r} generation {self.generation}, {len(self._calls)} calls, {state}>"

    @property
    def calls_in_flight(self) -> int:
        """How many calls run now."""
        return len(self._calls)

    @property
    def protocol_version(self) -> str:
        """The version that the two sides agreed on."""
        return self.info.protocol_version

    def go_down(self) -> None:
        """End all calls and tell the one who holds the connection. The link has its loss by now."""
        for record in self._calls:
            if record.answer is None:  # an answer that has arrived is still the answer
                record.scope.cancel()
        self.over.set()

    def end(self, what: str) -> None:
        """Take the connection down on purpose; nothing happens when it is down.

        Args:
            what: The end of a sentence that begins with the server, for the calls in flight: "was disconnected".
        """
        self.link.on_loss = None
        self.link.lose(Loss(what))
        self.go_down()

    async def idle(self) -> None:
        """Wait until no call runs."""
        while self._calls:
            await self._idle.wait()

    def lost(self, record: CallRecord | None = None, cause: BaseException | None = None) -> ConnectionLost:
        """Return the error that tells why the connection is down.

        Args:
            record: The call that it ended; None when it is told of the connection itself.
            cause: What the SDK raised.
        """
        loss = self.link.loss or Loss("stopped answering")
        sent = record is not None and record.sent > 0
        message = f"Server {self.server_id!r} {loss.what} (connection {self.generation})"
        if record is not None:
            message += f" under a call, which {'may have' if sent else 'has not'} run"
        message += "."
        if loss.last_words:
            message += f" Its last words on standard error: {loss.last_words}"
        return ConnectionLost(
            self.redactor.text(message),
            server_id=self.server_id,
            generation=self.generation,
            phase="call",
            cause=self.redactor.error(loss.cause or cause),
            may_have_run=sent,
            exit_status=loss.exit_status,
            last_words=loss.last_words,
        )

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
            raise self.lost(record)
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
            failure = self._cut_short(record, clock, what)
        except Exception as error:  # noqa: BLE001  # all of them are explained or passed on
            failure = await self._explain(plain(error), record, what)
        finally:
            current_call.reset(token)
            self.link.forget(record)
            self._calls.discard(record)
            if not self._calls:
                self._idle.set()
                self._idle = anyio.Event()
        raise failure

    def _cut_short(self, record: CallRecord, clock: CallClock, what: str) -> BaseException:
        """Say why the call's scope was cancelled."""
        if self.link.loss is not None:
            return self.lost(record)
        return CallTimeout(
            f"Server {self.server_id!r}: {what} {clock.reason()}. The server was told, the connection stays in use; "
            "give the call more time, or see why the server is slow.",
            server_id=self.server_id,
            generation=self.generation,
            may_have_run=record.sent > 0,
        )

    async def _explain(self, error: BaseException, record: CallRecord, what: str) -> BaseException:
        """Turn what the SDK raised into what happened."""
        if isinstance(error, MCPError):
            answered = await self._is_answer(error, record)
            return error if answered else self.lost(record, error)
        if self.link.loss is not None:
            return self.lost(record, error)
        if isinstance(error, PydanticSerializationError):
            return ConfigError(
                f"server {self.server_id!r}: arguments of {what} cannot be sent as JSON: "
                f"{self.redactor.text(str(error))}. Nothing was sent.",
                server_id=self.server_id,
                field="arguments",
            )
        if isinstance(error, ValidationError | RuntimeError) and not isinstance(
            error, InputRequiredRoundsExceededError
        ):
            return BadAnswer(
                f"Server {self.server_id!r} answered {what} with a result that breaks the protocol or the tool's own "
                f"schema: {self.redactor.text(_words(error))}. The call ran; the server has to be mended.",
                server_id=self.server_id,
                generation=self.generation,
                phase="call",
                cause=self.redactor.error(error),
            )
        return error

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


def _words(error: BaseException) -> str:
    """Say what is wrong with a result, without showing the result."""
    if not isinstance(error, ValidationError):
        return str(error).rstrip(".")
    details = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details[:5])
