"""The events of a pool, as a program reads them."""

from __future__ import annotations

from typing import Self, final

import anyio
import attrs

from mcp_pool._shared.loops import check_current
from mcp_pool.supervision.events import Event, EventQueue, EventsDropped


@final
@attrs.frozen(eq=False, repr=False)
class EventStream:
    """An async iterator of the events since it was opened, in order. It ends with the pool's block.

    Returned by `MCPPool.events`. A reader that is too slow loses the oldest events and gets one `EventsDropped` in
    their place.
    """

    _queue: EventQueue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        check_current(self._queue.loop)
        await anyio.lowlevel.checkpoint()
        queue = self._queue
        await queue.changed.until(lambda: queue.waiting or queue.is_closed)
        if not queue.waiting:
            raise StopAsyncIteration
        if queue.dropped:
            count, queue.dropped = queue.dropped, 0
            return EventsDropped(count)
        return queue.waiting.popleft()
