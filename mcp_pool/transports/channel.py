"""What is known of one channel to a server: why it was lost, what was sent for which call, and what came back.

The SDK reports a lost connection, a local time-out and a server's own error by codes that servers use too (-32000 is
the commonest code of real servers). So the truth is taken from the wire: the tracked streams note on a call's record
that its request was handed over and what answered it, and the channel notes, once, why it was lost.
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

from mcp_pool._shared.guard import words_of
from mcp_pool.errors import MCPPoolError, Phase

MAX_OPEN_SERVER_REQUESTS: Final = 1000
"""Requests of a server that may wait for it to take their answers. The SDK holds a task for each of them."""
_PHASES: Final[dict[str, Phase]] = {
    "server/discover": "discover",
    "initialize": "initialize",
    "tools/list": "list",
}


@final
@attrs.frozen(eq=False)
class DisconnectCause:
    """Why a channel was lost."""

    what: str
    """What happened, as the end of a sentence that begins with the server: "exited with status 3"."""
    exit_status: int | None = None
    """How the process ended: its exit code, or minus the number of the signal; None if it did not or there is none."""
    stderr_tail: str = attrs.field(default="", repr=False)
    """The end of what the server wrote to standard error, secrets removed."""
    cause: BaseException | None = None
    """The exception that led to it, if there was one."""
    advice: str = ""
    """What to do, as a sentence; empty where the message says enough."""
    draining: bool = False
    """Whether calls that are running may still be answered: the channel only takes no more."""
    unreachable: bool = False
    """Whether the server cannot be reached, so that a session cannot be ended either."""

    @property
    def words(self) -> str:
        """What the exception says itself, for the end of the message; empty where the message tells all of it."""
        return "" if isinstance(self.cause, MCPPoolError) else words_of(self.cause)


@final
@attrs.frozen(eq=False)
class Failure:
    """Why one request got no answer while the channel is up."""

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
    """What the wire knows of one call, or of one probe of the pool's own. Exists while the call does."""

    channel: Channel
    """The channel that the call runs on."""
    scope: anyio.CancelScope
    """The call's one scope: it carries the deadline, and the connection cancels it when it ends."""
    sent: int
    """How many requests may have reached the server: each wire counts one when it hands over the first of it."""
    request_id: RequestId | None = None
    """The id of the request that waits for its answer."""
    answer: JSONRPCResponse | JSONRPCError | None = None
    """What the server answered to the latest request."""
    failure: Failure | None = None
    """Why there is no answer of the server, where the wire knows; then `answer` is not the server's."""
    is_call: bool = True
    """Whether a caller waits for it. Where a probe of the pool's own fails there is nothing more to probe."""
    is_rejected: bool = False
    """Whether the server refused the call unread, and with it the session that it came in."""
    done: bool = False
    """Whether the call has ended. What has not been handed over by then must never be: its caller was told so."""
    on_done: Callable[[], None] | None = None
    """Called once, synchronously, when the call has ended, for a wire that would go on waiting for the answer."""

    @property
    def is_answered(self) -> bool:
        """Whether the server has answered, and does not ask for input first, which may take for ever."""
        answer = self.answer
        return answer is not None and not (
            isinstance(answer, JSONRPCResponse) and answer.result.get("resultType") == "input_required"
        )


current_call: Final[ContextVar[CallRecord | None]] = ContextVar("mcp_pool_current_call", default=None)
"""The record of the call whose request is being written. The SDK writes in the caller's task, so the stream sees it."""


def _ignore(*_: object) -> None:
    """Stand in for an observer where there is none."""


@final
@attrs.define(eq=False, repr=False)
class Channel:
    """One channel, from its opening to its end. The first cause of its loss is the one that counts."""

    tracked: bool
    """Whether its streams are tracked, so that records and phases are known."""
    _on_lost: Callable[[], None] = attrs.field(default=_ignore)
    """Called once, synchronously, when the channel is lost: state must not lag behind knowledge."""
    _on_suspect: Callable[[], None] = attrs.field(default=_ignore)
    """Called when the server should be probed soon."""
    learn_secret: Callable[[str, str], None] = attrs.field(default=_ignore)
    """Called with the name and the value of each header that carries credentials, so that they are never shown."""
    disconnect_cause: DisconnectCause | None = attrs.field(default=None, init=False)
    """Why the channel is lost; None while it is up."""
    is_open: bool = attrs.field(default=False, init=False)
    """Whether the handshake and the first listing are done."""
    probe_when_idle: bool = attrs.field(default=True, init=False)
    """Whether silence of the server means anything. Not so where each request travels alone: there, only a request that
    has failed does."""
    last_activity_at: float = attrs.field(factory=anyio.current_time, init=False)
    """When something last arrived from the server, on the event loop's clock, in seconds."""
    activity_count: int = attrs.field(default=0, init=False)
    """How often something has arrived."""
    is_suspect: bool = attrs.field(default=False, init=False)
    """Whether something happened after which the server should be probed at once."""
    failure: Failure | None = attrs.field(default=None, init=False)
    """Why the latest request that belongs to no call got no answer, where the wire knows."""
    phase: Phase = attrs.field(default="spawn", init=False)
    """How far the handshake has come, told by the latest request that was sent."""
    process_id: int | None = attrs.field(default=None, init=False)
    """The server's process, if it has one of its own."""
    stderr_tail: Callable[[], str] = attrs.field(default=str, init=False)
    """Returns the end of what the server has written to standard error so far."""
    unreadable_lines: int = attrs.field(default=0, init=False)
    """How many lines arrived that are not JSON-RPC messages."""
    _server_requests: list[RequestId] = attrs.field(factory=list[RequestId], init=False)
    """The ids of the server's requests whose answers have not been handed over. It may use one twice."""
    _waiting: dict[RequestId, CallRecord] = attrs.field(factory=dict[RequestId, CallRecord], init=False)
    """The calls by the id of the request that waits for an answer."""

    @property
    def is_settled(self) -> bool:
        """Whether it is no longer connecting: it is open, was open, or was lost before."""
        return self.is_open or self.disconnect_cause is not None

    def mark_lost(self, cause: DisconnectCause) -> None:
        """Declare the channel lost, or ended on purpose. Only the first declaration counts."""
        if self.disconnect_cause is None:
            self.disconnect_cause = cause
            self._on_lost()

    def note_activity(self) -> None:
        """Note that something arrived: a message, output of a process, or an HTTP response that is no outage."""
        self.activity_count += 1
        self.last_activity_at = anyio.current_time()

    def suspect(self) -> None:
        """Have the server probed soon."""
        self.is_suspect = True
        self._on_suspect()

    def note_request(self, request: JSONRPCRequest) -> CallRecord | None:
        """Note that a request is about to be handed over, and return the record of its call on this channel, if any."""
        self.phase = _PHASES.get(request.method, "call")
        record = current_call.get()
        if record is None or record.channel is not self:
            return None
        record.answer = None
        record.request_id = coerce_request_id(request.id)
        self._waiting[record.request_id] = record
        return record

    def note_answer(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        """Note that an answer arrived."""
        if answer.id is not None and (record := self._waiting.pop(coerce_request_id(answer.id), None)):
            record.answer = answer

    def note_server_request(self, message: JSONRPCMessage) -> None:
        """Note that the server requests something, or cancels a request."""
        if isinstance(message, JSONRPCRequest):
            self._server_requests.append(coerce_request_id(message.id))
            if len(self._server_requests) > MAX_OPEN_SERVER_REQUESTS:
                self.mark_lost(too_many_server_requests(len(self._server_requests)))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._forget_server_request(cancelled_request_id_from_params(message.params))

    def note_reply(self, message: JSONRPCMessage) -> None:
        """Note that an answer to the server was handed over."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._forget_server_request(message.id)

    def forget(self, record: CallRecord) -> None:
        """Forget a call that has ended."""
        record.done = True
        if record.on_done is not None:
            record.on_done()
        if record.request_id is not None and self._waiting.get(record.request_id) is record:
            del self._waiting[record.request_id]

    def _forget_server_request(self, request_id: RequestId | None) -> None:
        if request_id is not None and (known := coerce_request_id(request_id)) in self._server_requests:
            self._server_requests.remove(known)


def too_many_server_requests(count: int) -> DisconnectCause:
    """Return the cause of a server that sends requests and takes no answers: it would use up all memory."""
    what = f"has {count} open requests and does not take the answers"
    return DisconnectCause(what, advice="Fix the server.")
