"""What it means over SSE when a server does not take a message that is posted."""

from __future__ import annotations

from http import HTTPStatus
from typing import final

import attrs
import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, JSONRPCRequest

from mcp_pool._shared.redaction import origin
from mcp_pool.transports.channel import CallRecord, Channel, Failure
from mcp_pool.transports.http.answers import ParsedBody
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.handshake_errors import AUTH_STATUSES, handshake_failed
from mcp_pool.transports.http.inbox import Inbox
from mcp_pool.transports.http.session import PING_METHOD, Finding, Rejection, SessionEvidence
from mcp_pool.transports.http.session_probe import SessionProbe


@final
@attrs.frozen
class RejectedPost:
    """A post that was answered with another status than one of success."""

    request: httpx2.Request
    """What was posted."""
    forward: Forward
    """What it was sent by."""
    response: httpx2.Response
    """What came back; its body has been read."""
    body: ParsedBody
    """What stood in the body."""


@final
@attrs.define(eq=False)
class PostRejections:
    """Decides what a refused post ends: the session, one call, or nothing."""

    channel: Channel
    """The wire."""
    inbox: Inbox
    """Takes answers that do not come on the stream."""
    probe: SessionProbe
    """Settles whether the session is lost."""
    _evidence: SessionEvidence = attrs.field(factory=SessionEvidence, init=False, repr=False)

    def note(self, post: RejectedPost, message: JSONRPCMessage, record: CallRecord | None) -> None:
        """Note that a post was refused.

        Args:
            post: The post.
            message: What was posted.
            record: The call that it is for, if any.
        """
        status = post.response.status_code
        loss = handshake_failed(Failure(f"refused a message with HTTP status {status}", status=status))
        if not isinstance(message, JSONRPCRequest):
            if not self.channel.is_settled or status == HTTPStatus.NOT_FOUND:
                self.channel.mark_lost(loss)
            else:
                self.probe.note(f"answered a notification with HTTP status {status}")
            return
        is_early = not self.channel.is_settled
        if self._deliver_answer(post, message, is_early=is_early):
            return
        rejection, is_ping = Rejection.of(status, post.body.error), message.method == PING_METHOD
        finding = self._evidence.note_rejection(rejection, is_ping=is_ping, is_certain=post.body.is_certain)
        is_lost = finding is Finding.LOST
        if is_lost and record is not None:
            record.requests_sent -= 1
            record.session_rejected = True
        if is_lost or is_early:
            self.channel.mark_lost(loss)
            return
        self._fail(post, message, record)
        if finding is Finding.SUSPECT:
            self.probe.suspect(rejection, post.request, post.forward)

    def _deliver_answer(self, post: RejectedPost, message: JSONRPCRequest, *, is_early: bool) -> bool:
        """Deliver the answer that came with the rejection, if there is one. It counts whatever the status."""
        status, answer = post.response.status_code, post.body.answer
        if answer is None or (is_early and status in AUTH_STATUSES):
            return False
        self.channel.note_activity()
        error = Rejection.of(status, answer) if isinstance(answer, JSONRPCError) else None
        finding = self._evidence.note_answer(error, is_ping=message.method == PING_METHOD)
        self.inbox.deliver(answer)
        if error is not None and finding is Finding.SUSPECT:
            self.probe.suspect(error, post.request, post.forward)
        return True

    def _fail(self, post: RejectedPost, message: JSONRPCRequest, record: CallRecord | None) -> None:
        """Fail the one request that was refused, with what the server said of it."""
        status, elsewhere = post.response.status_code, post.response.next_request
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        if post.body.error is not None:
            self.inbox.deliver(post.body.error)
            return
        what = f"answered with HTTP status {status}"
        if elsewhere is not None:
            what = f"redirects to {origin(elsewhere.url)}, which is not followed"
        failure = Failure(what, status=status)
        if record is None:
            self.channel.failure = failure
        else:
            record.failure = failure
        error = ErrorData(code=INTERNAL_ERROR, message=what)
        self.inbox.deliver(JSONRPCError(jsonrpc="2.0", id=message.id, error=error))
