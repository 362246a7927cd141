"""Notifications and answers to the server, posted in the background so that calls do not wait behind them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, final

import anyio
import attrs
import httpx2
from anyio.abc import TaskGroup

from mcp_pool._shared.log import log
from mcp_pool._shared.log_throttle import LogThrottle
from mcp_pool.transports.channel import MAX_OPEN_SERVER_REQUESTS, Answer, Channel, too_many_server_requests
from mcp_pool.transports.http.client import Forward, current_message
from mcp_pool.transports.http.redirects import send_within_origin
from mcp_pool.transports.http.responses import read_whole
from mcp_pool.transports.http.status_errors import error_status

NOTIFICATION_TIMEOUT: Final = 5.0
"""Seconds for a server to accept a notification or an answer."""
MAX_RESPONSE_SIZE: Final = 65536
"""The longest response to a notification that is read, in bytes."""
MAX_NOTIFICATIONS: Final = 32
"""How many notifications, and how many answers to the server's own requests, are posted at once. Further notifications
are dropped; further answers wait, because the server waits for them."""


@final
@attrs.define(eq=False)
class Notifications:
    """Posts the notifications and answers of one connection. The SDK would post one at a time, and make calls wait."""

    server_id: str
    """For the log."""
    channel: Channel
    """The channel of the connection."""
    _background: TaskGroup = attrs.field(init=False)
    """The tasks that post."""
    _notifications: int = attrs.field(default=0, init=False)
    """How many notifications are being posted."""
    _answers: int = attrs.field(default=0, init=False)
    """How many answers are being posted or wait for their turn."""
    _answer_slots: anyio.Semaphore = attrs.field(
        factory=lambda: anyio.Semaphore(MAX_NOTIFICATIONS), init=False, repr=False
    )
    """One for each answer that may be posted at once."""
    _dropped: LogThrottle = attrs.field(
        factory=lambda: LogThrottle(
            "Server {!r}: notifications dropped because earlier ones have not been accepted yet: {}"
        ),
        init=False,
    )
    _not_accepted: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: notifications and answers not accepted in time: {}"), init=False
    )

    @asynccontextmanager
    async def posting(self) -> AsyncGenerator[None]:
        """Run the background tasks; they end with the block."""
        try:
            async with anyio.create_task_group() as self._background:
                yield
                self._background.cancel_scope.cancel()
        finally:
            for throttle in (self._dropped, self._not_accepted):
                throttle.flush(self.server_id)

    async def post(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Post a message, wait until it is accepted or the time is up, and return a response for the SDK."""
        try:
            with anyio.move_on_after(NOTIFICATION_TIMEOUT) as scope:
                response = await send_within_origin(request, forward)
                await read_whole(response, MAX_RESPONSE_SIZE)  # or the connection could not be used again
                if not response.is_success:
                    self.note(f"did not accept a notification: it {error_status(response, self.channel).what}")
            if scope.cancelled_caught:
                self._not_accepted.count(self.server_id)
        except Exception as error:  # noqa: BLE001  # nobody waits for it
            self.note(f"could not be sent a notification ({type(error).__name__})")
            self.channel.suspect()
        return httpx2.Response(202, request=request)

    def post_in_background(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Post a notification or an answer in the background, and return a response for the SDK at once."""
        outgoing = current_message.get()
        is_answer = outgoing is not None and isinstance(outgoing.message.message, Answer)
        if is_answer and self._answers >= MAX_OPEN_SERVER_REQUESTS:
            self.channel.mark_lost(too_many_server_requests(self._answers))
        elif is_answer:
            self._answers += 1
            self._background.start_soon(self._answer, request, forward)
        elif self._notifications >= MAX_NOTIFICATIONS:
            self._dropped.count(self.server_id)
        else:
            self._notifications += 1
            self._background.start_soon(self._post_counted, request, forward)
        return httpx2.Response(202, request=request)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that ends with the block."""
        self._background.start_soon(work)

    def note(self, what: str) -> None:
        """Log a harmless problem, as a phrase that follows the server's name."""
        log("DEBUG", self.server_id, "Server {!r} {}", self.server_id, what)

    async def _post_counted(self, request: httpx2.Request, forward: Forward) -> None:
        try:
            await self.post(request, forward)
        finally:
            self._notifications -= 1

    async def _answer(self, request: httpx2.Request, forward: Forward) -> None:
        try:
            async with self._answer_slots:
                await self.post(request, forward)
        finally:
            self._answers -= 1
