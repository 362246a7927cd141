"""Messages that nobody waits for, posted behind the back of those that somebody does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, final

import anyio
import attrs
import httpx2
from anyio.abc import TaskGroup
from mcp_types import JSONRPCError, JSONRPCResponse

from mcp_pool._shared.log import log
from mcp_pool._shared.log_throttle import LogThrottle
from mcp_pool.transports.channel import MAX_OPEN_SERVER_REQUESTS, Channel, DisconnectCause
from mcp_pool.transports.http.client import Forward, current_message
from mcp_pool.transports.http.exchange import forwarded
from mcp_pool.transports.http.responses import read_whole

NOTICE_TIMEOUT: Final = 5.0
"""Seconds for a server to take a notice."""
WORDS_LIMIT: Final = 65536
"""How much is read of what a server says to a notice, in bytes."""
NOTICE_LIMIT: Final = 32
"""Notifications being posted at once, and as many answers to the server's own requests. A notification on top of them
is dropped: a server that takes none cannot be told. An answer waits for its turn: the server is waiting for it."""


@final
@attrs.define(eq=False)
class Notifications:
    """Posts notices and answers of one connection. The SDK would post them singly, and all calls behind the slowest."""

    server_id: str
    """For the log."""
    channel: Channel
    """The wire."""
    _background: TaskGroup = attrs.field(init=False)
    """Where those are posted that nothing has to wait for."""
    _under_way: int = attrs.field(default=0, init=False)
    """Notifications that are being posted."""
    _answers: int = attrs.field(default=0, init=False)
    """Answers that are being posted or wait for their turn."""
    _turns: anyio.Semaphore = attrs.field(factory=lambda: anyio.Semaphore(NOTICE_LIMIT), init=False, repr=False)
    """One for each answer that may be posted at once."""
    _dropping: LogThrottle = attrs.field(
        factory=lambda: LogThrottle(
            "Server {!r}: {} notifications were not sent because earlier ones are still waiting"
        ),
        init=False,
    )
    _untaken: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r} did not accept {} notifications and answers in time"), init=False
    )

    @asynccontextmanager
    async def posting(self) -> AsyncGenerator[None]:
        """Hold the tasks that post in the background; they end with the block."""
        try:
            async with anyio.create_task_group() as self._background:
                yield
                self._background.cancel_scope.cancel()
        finally:
            for throttle in (self._dropping, self._untaken):
                throttle.flush(self.server_id)

    async def post(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Post a notice and wait until it is taken, or the time is up; return a response for the SDK."""
        try:
            with anyio.move_on_after(NOTICE_TIMEOUT) as scope:
                response = await forwarded(request, forward)
                await read_whole(response, WORDS_LIMIT)  # unread, it would cost a connection
                if response.is_error:
                    self.tell(f"answered a notification with HTTP status {response.status_code}")
            if scope.cancelled_caught:
                self._untaken.count(self.server_id)
        except Exception as error:  # noqa: BLE001  # nobody waits for it
            self.tell(f"could not be sent a notification: {type(error).__name__}")
            self.channel.suspect()
        return httpx2.Response(202, request=request)

    def post_behind(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Post a notice or an answer in the background, and return a response for the SDK at once."""
        outgoing = current_message.get()
        is_answer = outgoing is not None and isinstance(outgoing.message.message, JSONRPCResponse | JSONRPCError)
        if is_answer and self._answers >= MAX_OPEN_SERVER_REQUESTS:
            # It would go on asking, and the answers would use up all memory.
            what = f"has {self._answers} open requests and does not take the answers"
            self.channel.mark_lost(DisconnectCause(what, advice="Fix the server."))
        elif is_answer:
            self._answers += 1
            self._background.start_soon(self._answer, request, forward)
        elif self._under_way >= NOTICE_LIMIT:
            self._dropping.count(self.server_id)
        else:
            self._under_way += 1
            self._background.start_soon(self._post_counted, request, forward)
        return httpx2.Response(202, request=request)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something in the background; it ends with the block."""
        self._background.start_soon(work)

    def tell(self, what: str) -> None:
        """Write down a trouble that harms nobody."""
        log("DEBUG", self.server_id, "Server {!r} {}", self.server_id, what)

    async def _post_counted(self, request: httpx2.Request, forward: Forward) -> None:
        try:
            await self.post(request, forward)
        finally:
            self._under_way -= 1

    async def _answer(self, request: httpx2.Request, forward: Forward) -> None:
        try:
            async with self._turns:
                await self.post(request, forward)
        finally:
            self._answers -= 1
