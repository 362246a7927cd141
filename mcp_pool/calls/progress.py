"""Progress of one call: a task delivers the reports to the caller's function, in order and one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

import anyio
import attrs
from mcp.shared.dispatcher import ProgressFnT

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.guard import contained
from mcp_pool._shared.log import log

_T = TypeVar("_T")

MAX_BUFFERED: Final = 256
"""How many reports wait for a slow function. Beyond that, the oldest are dropped: newer reports supersede them."""
DELIVERY_TIMEOUT: Final = 0.5
"""Seconds that an answer waits until the reports before it have been delivered. A function that hangs must not delay
the answer for longer."""


@final
@attrs.define(eq=False, repr=False)
class ProgressFeed:
    """Buffers progress reports for the caller's function, so that a slow function does not block the connection."""

    server_id: str
    """For the log."""
    function: ProgressFnT
    """The caller's progress function."""
    _reports: deque[tuple[float, float | None, str | None]] = attrs.field(
        factory=lambda: deque[tuple[float, float | None, str | None]](maxlen=MAX_BUFFERED), init=False
    )
    _busy: bool = attrs.field(default=False, init=False)
    """Whether the function is running."""
    _changed: Changed = attrs.field(factory=Changed, init=False)

    def put(self, progress: float, total: float | None, message: str | None) -> None:
        """Add a report."""
        self._reports.append((progress, total, message))
        self._changed.notify()

    async def during(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call, and deliver its progress meanwhile.

        Raises:
            BaseException: From the call; or from the function, unless it is an `Exception`, which is only logged.
        """
        results: list[_T] = []
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._deliver, name=f"mcp_pool: progress from {self.server_id!r}")
                try:
                    results.append(await call())
                except Exception as error:  # noqa: BLE001  # raised below: the task group would wrap it
                    failure = error
                with anyio.move_on_after(DELIVERY_TIMEOUT):
                    await self._changed.until(lambda: not self._reports and not self._busy)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise plain(group) from None
        if failure is not None:
            raise failure
        return results[0]

    async def _deliver(self) -> None:
        while True:
            await self._changed.until(lambda: self._reports)
            self._busy = True
            try:
                await contained(self.function, *self._reports.popleft())
            except Exception as error:  # noqa: BLE001  # it must not fail the call
                words = "The progress function of a call to server {!r} raised {}"
                log("WARNING", self.server_id, words, self.server_id, type(error).__name__)
            finally:
                self._busy = False
                self._changed.notify()
