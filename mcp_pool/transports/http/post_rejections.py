"""What it means over SSE when a server rejects a POST."""

from __future__ import annotations

from http import HTTPStatus
from typing import final

import attrs
import httpx2
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, JSONRPCMessage, JSONRPCRequest

from mcp_pool.transports.channel import CallRecord, Channel, Failure
from mcp_pool.transports.http.answers import ParsedBody
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.handshake_errors import AUTH_STATUSES, handshake_failed
from mcp_pool.transports.http.inbox import Inbox
from mcp_pool.transports.http.session import Finding
from mcp_pool.transports.http.session_probe import SessionProbe
from mcp_pool.transports.http.status_errors import error_status


@final
@attrs.frozen
class RejectedPost:
    """A POST that was not answered with a status of success."""

    request: httpx2.Request
    """The HTTP request."""
    forward: Forward
    """Sends a request in the same way."""
    response: httpx2.Response
    """The response. Its body has been read."""
    body: ParsedBody
    """The body of the response."""


@final
@attrs.define(eq=False)
class PostRejections:
    """Decides what a rejected POST ends: the session, one call, or nothing."""

    channel: Channel
    """The channel of the connection."""
    inbox: Inbox
    """Passes on answers that do not come on the event stream."""
    probe: SessionProbe
    """Finds out whether the session is lost."""

    def note(self, post: RejectedPost, message: JSONRPCMessage, record: CallRecord | None) -> None:
        """Handle a rejected POST.

        Args:
            post: The POST.
            message: The message in it.
            record: The call that it belongs to, if any.
        """
        status = post.response.status_code
        failure = error_status(post.response, self.channel, post.body.excerpt, "rejected a message")
        loss = handshake_failed(failure)
        if not isinstance(message, JSONRPCRequest):
            if not self.channel.is_settled or status == HTTPStatus.NOT_FOUND:
                self.channel.mark_lost(loss)
            else:
                self.probe.note(f"did not accept a notification: it {failure.what}")
            return
        is_early = not self.channel.is_settled
        if self._deliver_answer(post, message, is_early=is_early):
            return
        finding = self.probe.note_rejection(post.request, post.forward, message.method, status, post.body)
        is_lost = finding is Finding.LOST
        if is_lost and record is not None:
            record.requests_sent -= 1
            record.session_rejected = True
        if is_lost or is_early:
            self.channel.mark_lost(loss)
        else:
            self._fail(post, message, record)

    def _deliver_answer(self, post: RejectedPost, message: JSONRPCRequest, *, is_early: bool) -> bool:
        """Deliver the answer in the body, if there is one: it is valid whatever the status."""
        status, answer = post.response.status_code, post.body.answer
        if answer is None or (is_early and status in AUTH_STATUSES):
            return False
        self.channel.note_activity()
        self.inbox.deliver(answer)
        self.probe.note_answer(post.request, post.forward, message.method, status, answer)
        return True

    def _fail(self, post: RejectedPost, message: JSONRPCRequest, record: CallRecord | None) -> None:
        """Fail the request, with the server's own error if there is one."""
        if post.response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        if post.body.error is not None:
            self.inbox.deliver(post.body.error)
        else:
            self.fail(message, record, error_status(post.response, self.channel, post.body.excerpt))

    def fail(self, message: JSONRPCRequest, record: CallRecord | None, failure: Failure) -> None:
        """Fail a request that the server will not answer.

        Args:
            message: The request.
            record: The call that it belongs to, if any.
            failure: Why.
        """
        self.channel.note_failure(record, failure)
        error = ErrorData(code=INTERNAL_ERROR, message=failure.what)
        self.inbox.deliver(JSONRPCError(jsonrpc="2.0", id=message.id, error=error))
