"""What is known of one wire: whether it is down and why, what was written for which call, and what came back.

The SDK tells a lost connection, a local time-out and a server's own error by codes that servers use too (-32000 is the
commonest code of real servers). So the truth is taken from the wire: the taps note on a call's record that its request
was handed over and what answered it, and the link notes, once, why it went down.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, final

import anyio
import attrs
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse, RequestId

from mcp_pool.errors import Phase

UNTAKEN_ANSWERS: Final = 1000
"""Requests of a server that may wait for it to take their answers. The SDK holds a task for each of them."""
_PHASES: Final[dict[str, Phase]] = {
    "server/discover": "discover",
    "initialize": "initialize",
    "tools/list": "list",
}


@final
@attrs.frozen
class Loss:
    """Why a wire went down."""

    what: str
    """What happened, as the end of a sentence that begins with the server: "exited with status 3"."""
    exit_status: int | None = None
    """How the process ended: its exit code, or minus the number of the signal; None if it did not or there is none."""
    last_words: str = attrs.field(default="", repr=False)
    """The end of what the server wrote to standard error, secrets removed."""
    cause: BaseException | None = None
    """The exception that led to it, if there was one."""
    advice: str = ""
    """What to do, as a sentence; empty where the message says enough."""
    draining: bool = False
    """Whether calls that are under way may still be answered: the wire only takes no more."""
    unreachable: bool = False
    """Whether it is in vain to say goodbye."""


@final
@attrs.frozen
class Failure:
    """Why one request got no answer while the wire stands."""

    what: str
    """What happened, as the end of a sentence that begins with the server."""
    status: int | None = None
    """The status of an HTTP response without a JSON-RPC message, if that is why."""
    malformed: bool = False
    """Whether what the server answered breaks the protocol."""
    cause: BaseException | None = None
    """The exception that led to it, if there was one."""


@final
@attrs.define(eq=False, repr=False)
class CallRecord:
    """What the wire knows of one call, or of one question of the pool's own. Exists while the call does."""

    link: Link
    """The wire that the call runs on."""
    scope: anyio.CancelScope
    """The call's one scope: it carries the deadline, and the connection cancels it when it ends."""
    sent: int
    """How many requests may have reached the server: each wire counts one when it hands over the first of it."""
    request_id: RequestId | None = None
    """The id of the request that waits for its answer."""
    answer: JSONRPCResponse | JSONRPCError | None = None
    """What the server answered to the latest request."""
    failure: Failure | None = None
    """Why there is no answer of the server, where the wire knows; then `answer` is none of the server's."""
    is_call: bool = True
    """Whether a caller waits for it. Where a question of the pool's own fails there is nothing more to ask."""
    is_rejected: bool = False
    """Whether the server refused the call unread, and with it the session that it came in."""
    over: bool = False
    """Whether the call has ended. What has not been handed over by then must never be: its caller was told so."""
    on_over: Callable[[], None] | None = None
    """Called once, synchronously, when the call has ended, for a wire that would wait for the answer still."""


current_call: Final[ContextVar[CallRecord | None]] = ContextVar("mcp_pool_current_call", default=None)
"""The record of the call whose request is being written. The SDK writes in the caller's task, so it reaches the tap."""


@final
@attrs.define(eq=False, repr=False)
class Link:
    """One wire, from its opening to its end. The first loss that is told is the one that counts."""

    tapped: bool
    """Whether the wire has taps, so that records and phases are known."""
    keep_secret: Callable[[str, str], None] = attrs.field(default=lambda _name, _value: None, repr=False)
    """Called with the name and the value of each header that gives credentials, so that they are never shown."""
    loss: Loss | None = attrs.field(default=None, init=False)
    """Why the wire is down; None while it is up."""
    on_loss: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    """Called once, synchronously, when the wire goes down: state must not lag behind knowledge."""
    on_early_loss: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    """Called instead when it goes down before the connection stands: there is nothing to be waited for any more."""
    speaks_up: bool = attrs.field(default=True, init=False)
    """Whether something is to be heard from a server that is there, at least when it is asked. Not so where each
    request travels alone: there, silence means nothing until one has failed."""
    heard_at: float = attrs.field(factory=anyio.current_time, init=False)
    """When the server last gave a sign of life, on the event loop's clock, in seconds."""
    signs: int = attrs.field(default=0, init=False)
    """How many signs of life it has given."""
    on_doubt: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    """Called when something happened after which the server should be asked whether it is there."""
    failure: Failure | None = attrs.field(default=None, init=False)
    """Why the latest request that was no call's got no answer, where the wire knows."""
    phase: Phase = attrs.field(default="spawn", init=False)
    """How far the handshake has come, told by the latest request that was written."""
    process_id: int | None = attrs.field(default=None, init=False)
    """The server's process, if it has one of its own."""
    last_words: Callable[[], str] = attrs.field(default=str, init=False, repr=False)
    """Returns the end of what the server wrote to standard error so far."""
    noise: int = attrs.field(default=0, init=False)
    """How many lines arrived that were no JSON-RPC messages."""
    _asked: list[RequestId] = attrs.field(factory=list[RequestId], init=False, repr=False)
    """What the server asks: the ids of its requests whose answers have not been handed over. It may use one twice."""
    _waiting: dict[RequestId, CallRecord] = attrs.field(factory=dict[RequestId, CallRecord], init=False, repr=False)
    """The calls by the id of the request that waits for an answer."""

    def lose(self, loss: Loss) -> None:
        """Declare the wire down. Only the first declaration counts."""
        if self.loss is None:
            self.loss = loss
            tell = self.on_loss or self.on_early_loss
            if tell is not None:
                tell()

    @property
    def established(self) -> bool:
        """Whether the handshake is done and the connection stands, or stood."""
        return self.on_loss is not None or self.loss is not None

    def hear(self) -> None:
        """Note a sign of life: a message, something written to an output, or an answer of HTTP that is no outage."""
        self.signs += 1
        self.heard_at = anyio.current_time()

    def doubt(self) -> None:
        """Have the server asked whether it is there."""
        if self.on_doubt is not None:
            self.on_doubt()

    def note_request(self, request: JSONRPCRequest) -> CallRecord | None:
        """Note that a request is to be handed over, and return the record of its call, if it has one on this wire."""
        self.phase = _PHASES.get(request.method, "call")
        record = current_call.get()
        if record is None or record.link is not self:
            return None
        record.answer = None
        record.request_id = coerce_request_id(request.id)
        self._waiting[record.request_id] = record
        return record

    def note_answer(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        """Note that an answer arrived."""
        if answer.id is not None and (record := self._waiting.pop(coerce_request_id(answer.id), None)):
            record.answer = answer

    def note_question(self, message: JSONRPCMessage) -> None:
        """Note that the server asks something, or takes a question back."""
        if isinstance(message, JSONRPCRequest):
            self._asked.append(coerce_request_id(message.id))
            if len(self._asked) > UNTAKEN_ANSWERS:
                # It would go on, and the tasks that hold its answers would use up all memory.
                what = f"asked {len(self._asked)} things and does not take the answers"
                self.lose(Loss(what, advice="This is a fault of the server."))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._forget_question(cancelled_request_id_from_params(message.params))

    def note_reply(self, message: JSONRPCMessage) -> None:
        """Note that an answer to the server was handed over."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._forget_question(message.id)

    def _forget_question(self, request_id: RequestId | None) -> None:
        if request_id is not None and (asked := coerce_request_id(request_id)) in self._asked:
            self._asked.remove(asked)

    def forget(self, record: CallRecord) -> None:
        """Forget a call that has ended."""
        record.over = True
        if record.on_over is not None:
            record.on_over()
        if record.request_id is not None and self._waiting.get(record.request_id) is record:
            del self._waiting[record.request_id]
