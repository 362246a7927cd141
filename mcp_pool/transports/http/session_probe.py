"""Sends one `ping` to find out whether a server rejects everything in a session, and ends the session if it does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, Final, final

import anyio
import attrs
import httpx2
from mcp_types import JSONRPCError, JSONRPCResponse

from mcp_pool.transports.channel import Answer, Channel
from mcp_pool.transports.http.answers import JSON, ParsedBody, read_answer
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.redirects import send_within_origin
from mcp_pool.transports.http.responses import EVENT_STREAM
from mcp_pool.transports.http.session import (
    PING_METHOD,
    Finding,
    Rejection,
    SessionEvidence,
    session_lost,
    session_presumed_lost,
)
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit

PROBE_TIMEOUT: Final = 5.0
"""Seconds for a server to answer a ping. One that takes longer has not rejected it."""
PROBE_WAIT: Final = 1.0
"""Seconds that a rejected call waits for the ping, so that a caller who retries at once gets the new session."""
PING_ID: Final = "mcp_pool-ping"
"""The request id of the ping."""
MAX_ANSWER_SIZE: Final = 65536
"""The longest response to a ping that is read, in bytes."""


@final
@attrs.frozen
class _Suspicion:
    """A rejection after which the session may be lost."""

    rejection: Rejection
    request: httpx2.Request
    """The rejected request."""
    forward: Forward


@final
@attrs.define(eq=False)
class SessionProbe:
    """Checks one session after suspicious rejections. One ping covers all rejections that preceded it."""

    channel: Channel
    """The channel of the connection."""
    renewal_limit: SessionRenewalLimit
    """How often the session may be replaced on the evidence of a ping."""
    start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
    """Starts a task that ends with the connection."""
    note: Callable[[str], None]
    """Logs a phrase that follows the server's name."""
    _evidence: SessionEvidence = attrs.field(factory=SessionEvidence, init=False, repr=False)
    _suspicion: _Suspicion | None = attrs.field(default=None, init=False, repr=False)
    """The latest suspicion, until a ping is sent for it."""
    _settled: anyio.Event | None = attrs.field(default=None, init=False, repr=False)
    """Set when no suspicion is left; None while no ping is in flight."""

    def note_answer(self, request: httpx2.Request, forward: Forward, method: str, status: int, answer: Answer) -> None:
        """Record an answer within the session, and start a ping if it is suspicious.

        Args:
            request: The request.
            forward: Sends a request in the same way.
            method: The JSON-RPC method of the request.
            status: The HTTP status of the response.
            answer: The answer, which has the id of the request.
        """
        error = Rejection.of(status, answer) if isinstance(answer, JSONRPCError) else None
        finding = self._evidence.note_answer(error, is_ping=method == PING_METHOD)
        if error is not None and finding is Finding.SUSPECT:
            self._suspect(error, request, forward)

    def note_rejection(
        self, request: httpx2.Request, forward: Forward, method: str, status: int, body: ParsedBody
    ) -> Finding:
        """Record an error status without an answer in the body, and start a ping if it is suspicious.

        Args:
            request: The request.
            forward: Sends a request in the same way.
            method: The JSON-RPC method of the request.
            status: The HTTP status of the response.
            body: The body of the response.

        Returns:
            What follows from it.
        """
        rejection = Rejection.of(status, body.error)
        finding = self._evidence.note_rejection(rejection, is_ping=method == PING_METHOD, is_certain=body.is_certain)
        if finding is Finding.SUSPECT:
            self._suspect(rejection, request, forward)
        return finding

    def _suspect(self, rejection: Rejection, request: httpx2.Request, forward: Forward) -> None:
        """Start a ping. Synchronous: the rejected call does not have to wait for it."""
        if not self.channel.is_settled or self.channel.disconnect_cause is not None:
            return  # a rejected handshake has failed anyway, and a session that is known to be lost needs no proof
        self._suspicion = _Suspicion(rejection, request, forward)
        if self._settled is None:
            self._settled = anyio.Event()
            self.start(partial(self._settle, self._settled))

    async def settled(self) -> None:
        """Wait for up to `PROBE_WAIT` until no suspicion is left."""
        if self._settled is not None:
            with anyio.move_on_after(PROBE_WAIT):
                await self._settled.wait()

    async def _settle(self, settled: anyio.Event) -> None:
        try:
            while (suspicion := self._suspicion) is not None and self.channel.disconnect_cause is None:
                self._suspicion = None
                if (ping := await self._ping(suspicion)) is not None:
                    self._judge(suspicion.rejection, *ping)
        finally:
            self._settled = None
            settled.set()

    def _judge(self, rejection: Rejection, status: int, body: ParsedBody) -> None:
        """Decide whether the session is lost.

        Args:
            rejection: How a request was rejected.
            status: The HTTP status of the response to the ping.
            body: The body of that response.
        """
        if body.answer is not None or status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self.channel.note_activity()
        if isinstance(body.answer, JSONRPCResponse) or self.channel.disconnect_cause is not None:
            return
        if status == HTTPStatus.NOT_FOUND and body.answer is None and body.is_certain:
            self.channel.mark_lost(session_lost(status))
        elif not rejection.is_confirmed_by(Rejection.of(status, body.answer or body.error)):
            return
        elif self.renewal_limit.claim(anyio.current_time()):
            self.channel.mark_lost(session_presumed_lost(status))
        else:
            self.note("rejects pings in the same way as calls, although the session is new")

    async def _ping(self, suspicion: _Suspicion) -> tuple[int, ParsedBody] | None:
        """Send a ping, and return the HTTP status and the body of the response; None if there was none."""
        headers = httpx2.Headers(suspicion.request.headers)
        headers.pop("content-length", None)
        headers["accept"] = f"{JSON}, {EVENT_STREAM}"
        message = {"jsonrpc": "2.0", "id": PING_ID, "method": PING_METHOD}
        # Not the trace, which records what happens to the rejected request.
        extensions = {name: value for name, value in suspicion.request.extensions.items() if name != "trace"}
        url = suspicion.request.url
        request = httpx2.Request("POST", url, headers=headers, json=message, extensions=extensions)
        try:
            with anyio.fail_after(PROBE_TIMEOUT):
                response = await send_within_origin(request, suspicion.forward)
                body = await read_answer(response, MAX_ANSWER_SIZE, PING_ID)
        except Exception as error:  # noqa: BLE001  # a ping without a response proves nothing
            self.note(f"did not answer a ping that checks its session ({type(error).__name__})")
            return None
        return response.status_code, body
