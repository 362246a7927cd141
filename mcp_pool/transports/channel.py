"""What is known about one channel to a server: why it was lost, what was sent for each call, and what came back.

The SDK reports a lost connection, a local timeout and a server's own error with codes that servers use as well. So the
wire decides, not the code: the tracked streams record on each call whether its request was sent and how it was
answered, and the channel records why it was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, final

import anyio
import attrs
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    INTERNAL_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from mcp_pool._shared.guard import words_of
from mcp_pool._shared.redaction import Redactor
from mcp_pool.errors import MCPPoolError, Phase
from mcp_pool.transports.corrections import LIST_TOOLS, complete, drop_malformed_tools
from mcp_pool.transports.open_requests import OpenRequest, OpenRequests
from mcp_pool.transports.unreadable_count import Mark, UnreadableCount

Answer: TypeAlias = JSONRPCResponse | JSONRPCError
"""An answer to a request."""

MAX_OPEN_SERVER_REQUESTS: Final = 1000
"""Maximum number of a server's requests whose answers it has not accepted yet. The SDK keeps a task for each."""
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
    """What happened, as a phrase that follows the server's name: "exited with status 3"."""
    exit_status: int | None = None
    """The exit code of the process, or minus the number of the signal that ended it; None if unknown."""
    stderr_tail: str = attrs.field(default="", repr=False)
    """The end of what the server wrote to standard error, with secrets masked."""
    cause: BaseException | None = None
    """The exception behind it, if any."""
    advice: str = ""
    """What the operator can do, as a sentence; empty if the message says enough."""
    draining: bool = False
    """Whether calls in flight may still be answered; new ones are refused."""
    unreachable: bool = False
    """Whether the server cannot be reached, so that there is no point in ending its session."""
    is_complete: bool = True
    """False while the exit status and the stderr tail are being gathered; calls in flight wait for them."""

    @property
    def words(self) -> str:
        """A colon and the text of the exception, for the end of the message; empty if the message already says it."""
        return "" if isinstance(self.cause, MCPPoolError) else words_of(self.cause)


@final
@attrs.frozen(eq=False)
class Failure:
    """Why one request was not answered although the channel is up."""

    what: str
    """What happened, as a phrase that follows the server's name."""
    status: int | None = None
    """The status of an HTTP response without a JSON-RPC message, if that is the reason."""
    malformed: bool = False
    """Whether the server's response violates the protocol."""
    advice: str = ""
    """What to do, as a sentence; empty for the usual advice."""
    cause: BaseException | None = None
    """The exception behind it, if any."""


@final
@attrs.define(eq=False, repr=False)
class CallRecord:
    """What the wire knows about one call, or about one of the pool's own probes. Exists for as long as the call."""

    channel: Channel
    """The channel that the call runs on."""
    scope: anyio.CancelScope
    """The call's only scope: it carries the deadline, and is cancelled when the connection ends."""
    requests_sent: int
    """How many of its requests may have reached the server; the wire counts one as soon as it starts to send it."""
    request_id: RequestId | None = None
    """The id of the latest request."""
    answer: Answer | None = None
    """The answer to the latest request."""
    failure: Failure | None = None
    """Why the server did not answer, if the wire knows; `answer` is then not the server's own."""
    is_call: bool = True
    """Whether it is a caller's call; False for a probe, whose failure must not trigger another probe."""
    session_rejected: bool = False
    """Whether the server rejected the session that the call was sent in, without running the call."""
    done: bool = False
    """Whether the call has ended. A request that has not been sent by then must never be: its caller was told so."""
    on_done: Callable[[], None] | None = None
    """Called once, synchronously, when the call ends, so that the wire stops waiting for the answer."""
    begun: Mark = attrs.field(init=False)
    """When it began, for counting the unreadable lines since then."""

    def __attrs_post_init__(self) -> None:
        self.begun = self.channel.unreadable.mark()

    @property
    def is_answered(self) -> bool:
        """Whether the server has answered with something other than a request for more input."""
        answer = self.answer
        return answer is not None and not (
            isinstance(answer, JSONRPCResponse) and answer.result.get("resultType") == "input_required"
        )


current_call: Final[ContextVar[CallRecord | None]] = ContextVar("mcp_pool_current_call", default=None)
"""The record of the call whose request is being sent. The SDK sends in the caller's task, so the stream can read it."""


def _ignore(*_: object) -> None:
    """Do nothing: the default for callbacks that are not set."""


@final
@attrs.define(eq=False, repr=False)
class Channel:
    """One channel, from its opening to its end. Only the first cause of its loss counts."""

    tracked: bool
    """Whether its streams are tracked; without that, records and phases say nothing."""
    _on_lost: Callable[[], None] = attrs.field(default=_ignore)
    """Called once, synchronously, when the channel is lost, so that the server's state changes at once."""
    _on_suspect: Callable[[], None] = attrs.field(default=_ignore)
    """Called when the server should be probed soon."""
    learn_secret: Callable[[str, str], None] = attrs.field(default=_ignore)
    """Called with the name and value of each header that carries credentials, so that they are masked everywhere."""
    _on_complete: Callable[[], None] = attrs.field(default=_ignore)
    """Called once, synchronously, when an incomplete cause has been completed."""
    quote: Callable[[bytes], str] = attrs.field(default=Redactor.of(()).quote)
    """Returns the beginning of what the server sent in a form that may be shown."""
    _on_tools_dropped: Callable[[list[tuple[str, str]]], None] = attrs.field(default=_ignore)
    """Called with the names of tools that were removed from a listing, and what is wrong with each."""
    disconnect_cause: DisconnectCause | None = attrs.field(default=None, init=False)
    """Why the channel was lost or closed; None while it is up."""
    is_open: bool = attrs.field(default=False, init=False)
    """Whether the handshake and the first listing are done."""
    probe_when_idle: bool = attrs.field(default=True, init=False)
    """Whether a silent server should be probed; silence means nothing if each request has its own HTTP exchange."""
    last_activity_at: float = attrs.field(factory=anyio.current_time, init=False)
    """When something last arrived from the server, in seconds on the event loop's clock."""
    activity_count: int = attrs.field(default=0, init=False)
    """How many times something has arrived."""
    is_suspect: bool = attrs.field(default=False, init=False)
    """Whether something happened after which the server should be probed at once."""
    failure: Failure | None = attrs.field(default=None, init=False)
    """Why the latest request outside of any call was not answered, if the wire knows."""
    phase: Phase = attrs.field(default="spawn", init=False)
    """The current phase, derived from the latest request that was sent."""
    inconclusive: Failure | None = attrs.field(default=None, init=False)
    """Why `server/discover` failed, if the failure neither ended the attempt nor says what the server supports."""
    discover_answered: bool = attrs.field(default=False, init=False)
    """Whether the server answered `server/discover` before anything else was sent. If not, or if it was inconclusive, a
    legacy protocol is only what the SDK assumed."""
    process_id: int | None = attrs.field(default=None, init=False)
    """The id of the server's process; None if it is not a process of the pool's."""
    stderr_tail: Callable[[], str] = attrs.field(default=str, init=False)
    """Returns the end of what the server has written to standard error so far."""
    unreadable: UnreadableCount = attrs.field(factory=UnreadableCount, init=False)
    """Counts the lines or events that are not JSON-RPC messages and answer no request."""
    _server_requests: list[RequestId] = attrs.field(factory=list[RequestId], init=False)
    """The ids of the server's requests whose answers have not been sent yet. A server may use one id twice."""
    requests: OpenRequests[CallRecord] = attrs.field(factory=OpenRequests[CallRecord], init=False)
    """The requests that wait for an answer."""

    @property
    def is_settled(self) -> bool:
        """Whether connecting is over: the channel has been opened, or was lost before that."""
        return self.is_open or self.disconnect_cause is not None

    def mark_lost(self, cause: DisconnectCause) -> None:
        """Mark the channel as lost, or as closed on purpose. Only the first call has an effect."""
        if self.disconnect_cause is None:
            self.disconnect_cause = cause
            self._on_lost()

    def complete(self, cause: DisconnectCause) -> None:
        """Replace an incomplete cause by the complete one."""
        if self.disconnect_cause is not None and not self.disconnect_cause.is_complete:
            self.disconnect_cause = cause
            self._on_complete()

    def note_activity(self) -> None:
        """Record activity: a message, output of a process, or an HTTP response that does not indicate an outage."""
        self.activity_count += 1
        self.last_activity_at = anyio.current_time()

    def suspect(self) -> None:
        """Request a probe of the server."""
        self.is_suspect = True
        self._on_suspect()

    def note_request(self, request: JSONRPCRequest) -> CallRecord | None:
        """Record that a request is about to be sent, and return the record of its call on this channel, if any."""
        self.phase = _PHASES.get(request.method, "call")
        record = current_call.get()
        if record is None or record.channel is not self:
            self.failure = None
            self.requests.add(request, None)
            return None
        record.answer = None
        record.request_id = self.requests.add(request, record)
        return record

    def note_answer(self, answer: Answer) -> None:
        """Record an answer on the call that waits for it, and correct what the SDK would reject in it."""
        if answer.id is None or (request := self.requests.remove(answer.id)) is None:
            return
        if request.method == "server/discover" and self.inconclusive is None:
            self.discover_answered = True
        if request.owner is not None:
            request.owner.answer = answer
        if isinstance(answer, JSONRPCResponse):
            self._correct(answer.result, request)

    def fail(self, request_id: RequestId, failure: Failure) -> JSONRPCError:
        """Record why a request was not answered, and return an error for the SDK."""
        request = self.requests.get(request_id)
        self.note_failure(None if request is None else request.owner, failure)
        error = ErrorData(code=INTERNAL_ERROR, message=failure.what)
        return JSONRPCError(jsonrpc="2.0", id=request_id, error=error)

    def note_other_message(self, message: JSONRPCMessage) -> None:
        """Record that a notification or a reply is about to be sent."""
        self.requests.note_other_message()
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self.requests.abandon(cancelled_request_id_from_params(message.params), None)

    def note_failure(self, record: CallRecord | None, failure: Failure) -> None:
        """Record why a request was not answered: on its call or, if it belongs to no call, on the channel."""
        if record is not None:
            record.failure = failure
        else:
            self.failure = failure

    def note_server_request(self, message: JSONRPCMessage) -> None:
        """Record a request of the server, or its cancellation of one."""
        if isinstance(message, JSONRPCRequest):
            self._server_requests.append(coerce_request_id(message.id))
            if len(self._server_requests) > MAX_OPEN_SERVER_REQUESTS:
                self.mark_lost(too_many_server_requests(len(self._server_requests)))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._forget_server_request(cancelled_request_id_from_params(message.params))

    def note_reply(self, message: JSONRPCMessage) -> None:
        """Record that one of the server's requests was answered."""
        if isinstance(message, Answer):
            self._forget_server_request(message.id)

    def forget(self, record: CallRecord) -> None:
        """Forget a call that has ended."""
        record.done = True
        if record.on_done is not None:
            record.on_done()
        self.requests.abandon(record.request_id, record)

    def _correct(self, result: dict[str, Any], request: OpenRequest[CallRecord]) -> None:
        if request.method == "initialize":
            self.requests.version = str(result.get("protocolVersion"))
        complete(result, request.version)
        if request.method == LIST_TOOLS and (dropped := drop_malformed_tools(result, request.version)):
            self._on_tools_dropped(dropped)

    def _forget_server_request(self, request_id: RequestId | None) -> None:
        if request_id is not None and (known := coerce_request_id(request_id)) in self._server_requests:
            self._server_requests.remove(known)


def too_many_server_requests(count: int) -> DisconnectCause:
    """Return the cause for a server that sends requests without accepting the answers, which would exhaust memory."""
    what = f"sent {count} requests without accepting the answers"
    return DisconnectCause(what, advice="Fix the server.")
