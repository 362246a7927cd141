"""Messages that nobody waits for, posted behind the back of those that somebody does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, final

import anyio
import attrs
import httpx2
from anyio.abc import TaskGroup
from loguru import logger

from mcp_pool.transports.bodies import read_whole
from mcp_pool.transports.exchange import forwarded
from mcp_pool.transports.http_client import Forward
from mcp_pool.transports.link import Link

NOTICE_TIMEOUT: Final = 5.0
"""Seconds for a server to take a notice."""
WORDS_LIMIT: Final = 65536
"""How much is read of what a server says to a notice, in bytes."""
NOTICE_LIMIT: Final = 32
"""Notices under way at once. What comes on top of them is dropped: a server that takes none cannot be told."""


@final
@attrs.define(eq=False)
class Notices:
    """Posts notices of one connection. The SDK would post them one by one, and all calls behind the slowest."""

    server_id: str
    """For the log."""
    link: Link
    """The wire."""
    _background: TaskGroup | None = attrs.field(default=None, init=False)
    """Where those are posted that nothing has to wait for."""
    _under_way: int = attrs.field(default=0, init=False)

    @asynccontextmanager
    async def posting(self) -> AsyncGenerator[None]:
        """Hold the tasks that post in the background; they end with the block."""
        async with anyio.create_task_group() as self._background:
            yield
            self._background.cancel_scope.cancel()

    async def post(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Post a notice and wait until it is taken, or the time is up; return a response for the SDK."""
        try:
            with anyio.move_on_after(NOTICE_TIMEOUT):
                response = await forwarded(request, forward)
                await read_whole(response, WORDS_LIMIT)  # unread, it would cost a connection
                if response.is_error:
                    self.tell(f"answered a notice with HTTP status {response.status_code}")
        except Exception as error:  # noqa: BLE001  # nobody waits for it
            self.tell(f"could not be sent a notice: {type(error).__name__}")
            self.link.doubt()
        return httpx2.Response(202, request=request)

    def post_behind(self, request: httpx2.Request, forward: Forward) -> httpx2.Response:
        """Post a notice in the background, and return a response for the SDK at once."""
        if self._under_way < NOTICE_LIMIT and self._background is not None:
            self._under_way += 1
            self._background.start_soon(self._post_counted, request, forward)
        return httpx2.Response(202, request=request)

    def tell(self, what: str) -> None:
        """Write down a trouble that harms nobody."""
        logger.bind(server=self.server_id).debug("Server {!r} {}", self.server_id, what)

    async def _post_counted(self, request: httpx2.Request, forward: Forward) -> None:
        try:
            await self.post(request, forward)
        finally:
            self._under_way -= 1
