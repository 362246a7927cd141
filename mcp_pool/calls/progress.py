"""Progress of one call: handed to the caller's function in order, one at a time, in a task of the call's own."""

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
"""Reports that wait for a slow function; the oldest are dropped, as each newer one says more."""
DELIVERY_TIMEOUT: Final = 0.5
"""Seconds for the reports that came before the answer to be delivered before it is; a function that hangs must not
hold up the answer for longer."""


@final
@attrs.define(eq=False, repr=False)
class ProgressFeed:
    """Stands between the server, which must not wait, and a function of the caller, which may take its time."""

    server_id: str
    """For the log."""
    function: ProgressFnT
    """What the caller gave."""
    _reports: deque[tuple[float, float | None, str | None]] = attrs.field(
        factory=lambda: deque[tuple[float, float | None, str | None]](maxlen=MAX_BUFFERED), init=False
    )
    _busy: bool = attrs.field(default=False, init=False)
    """Whether the function runs now."""
    _changed: Changed = attrs.field(factory=Changed, init=False)

    def put(self, progress: float, total: float | None, message: str | None) -> None:
        """Keep a report for the function."""
        self._reports.append((progress, total, message))
        self._changed.notify()

    async def during(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call and deliver its progress meanwhile.

        Raises:
            BaseException: What the call raised; or what the function raised, where it is no `Exception`: those are
                logged, and harm nothing.
        """
        results: list[_T] = []
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._deliver, name=f"mcp_pool: progress from {self.server_id!r}")
                try:
                    results.append(await call())
                except Exception as error:  # noqa: BLE001  # kept from the group, which would wrap it
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
            except Exception as error:  # noqa: BLE001  # the function's failure is its own
                words = "The progress function of a call to server {!r} raised {}"
                log("WARNING", self.server_id, words, self.server_id, type(error).__name__)
            finally:
                self._busy = False
                self._changed.notify()
