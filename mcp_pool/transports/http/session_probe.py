"""Asks a server by one `ping` whether it refuses everything that comes in a session, and ends the session if so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, Final, final

import anyio
import attrs
import httpx2
from mcp_types import JSONRPCResponse

from mcp_pool.transports.channel import Channel
from mcp_pool.transports.http.answers import JSON, ParsedBody, read_answer
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.responses import EVENT_STREAM
from mcp_pool.transports.http.session import PING_METHOD, Rejection, session_lost, session_presumed_lost
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit

PROBE_TIMEOUT: Final = 5.0
"""Seconds for a server to answer a ping; one that takes longer has not refused it."""
PROBE_WAIT: Final = 1.0
"""Seconds for which a call that was refused waits for the ping: who calls again at once is to meet the new session."""
PING_ID: Final = "mcp_pool-ping"
"""The id of the ping."""
MAX_ANSWER_SIZE: Final = 65536
"""How much is read of what a server says to a ping, in bytes."""


@final
@attrs.frozen
class _Suspicion:
    """A rejection that makes it doubtful whether a server knows the session."""

    rejection: Rejection
    request: httpx2.Request
    """What was refused."""
    forward: Forward


@final
@attrs.define(eq=False)
class SessionProbe:
    """Settles suspicions against one session, by one ping for all that were raised before it was sent."""

    channel: Channel
    """The wire."""
    renewal_limit: SessionRenewalLimit
    """How often a session may be given up on such evidence."""
    start: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
    """Runs something in the background, until the connection is closed."""
    send: Callable[[httpx2.Request, Forward], Awaitable[httpx2.Response]]
    """Sends a request."""
    note: Callable[[str], None]
    """Writes something to the log: the end of a sentence that begins with the server."""
    _suspicion: _Suspicion | None = attrs.field(default=None, init=False, repr=False)
    """The latest one that no ping has followed."""
    _settled: anyio.Event | None = attrs.field(default=None, init=False, repr=False)
    """Set when none is left; None while no ping is under way."""

    def suspect(self, rejection: Rejection, request: httpx2.Request, forward: Forward) -> None:
        """Have one ping follow a rejection. Synchronous: the refused call need not stay for it.

        Args:
            rejection: How the server refused a request.
            request: The request.
            forward: What it was sent by.
        """
        if not self.channel.is_settled or self.channel.disconnect_cause is not None:
            return  # the handshake fails by itself, and a lost session needs no proof
        self._suspicion = _Suspicion(rejection, request, forward)
        if self._settled is None:
            self._settled = anyio.Event()
            self.start(partial(self._settle, self._settled))

    async def settled(self) -> None:
        """Wait for a moment until the pings under way have been answered."""
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
        """Draw the conclusion from what followed a rejection.

        Args:
            rejection: How a request was refused.
            status: The HTTP status that a ping met with.
            body: What the server said to the ping.
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
            self.note("refuses a ping as it refuses calls, although the session is new")

    async def _ping(self, suspicion: _Suspicion) -> tuple[int, ParsedBody] | None:
        """Send a ping and return the HTTP status that it met with, and what was said; None: that is not known."""
        headers = httpx2.Headers(suspicion.request.headers)
        headers.pop("content-length", None)
        headers["accept"] = f"{JSON}, {EVENT_STREAM}"
        message = {"jsonrpc": "2.0", "id": PING_ID, "method": PING_METHOD}
        extensions = {"timeout": suspicion.request.extensions.get("timeout", {})}
        url = suspicion.request.url
        request = httpx2.Request("POST", url, headers=headers, json=message, extensions=extensions)
        try:
            with anyio.fail_after(PROBE_TIMEOUT):
                response = await self.send(request, suspicion.forward)
                body = await read_answer(response, MAX_ANSWER_SIZE, PING_ID)
        except Exception as error:  # noqa: BLE001  # a ping that was not refused proves nothing
            self.note(f"did not answer a ping that tests its session: {type(error).__name__}")
            return None
        return response.status_code, body
