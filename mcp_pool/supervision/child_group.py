"""A group of children and their registry, ended by one cancellation."""

from __future__ import annotations

import math
from typing import final

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mcp_pool.supervision.child import Child
from mcp_pool.supervision.registry import Registry


@final
@attrs.define(eq=False, repr=False)
class ChildGroup:
    """A group of children and their registry, from the first admission to the end of the last child."""

    registry: Registry
    """Its rows."""
    ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the last child has ended."""
    _arriving: MemoryObjectSendStream[Child] = attrs.field(init=False)
    _arrivals: MemoryObjectReceiveStream[Child] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._arriving, self._arrivals = anyio.create_memory_object_stream[Child](math.inf)

    def start(self, child: Child) -> None:
        """Start a child, in the context in which the pool was opened, not in the caller's."""
        self._arriving.send_nowait(child)

    def end(self) -> None:
        """End all children; `ended` is set when they have ended."""
        self._arriving.close()

    def discard(self) -> None:
        """Close a group that will never run."""
        self._arriving.close()
        self._arrivals.close()

    async def run(self) -> None:
        """Run the children until `end` is called and they have ended."""
        try:
            with self._arrivals:
                async with anyio.create_task_group() as children:
                    async for child in self._arrivals:
                        children.start_soon(child.run, name=f"mcp_pool: child {child.row.server_id!r}")
                    children.cancel_scope.cancel()  # the one cancellation that ends them all
        finally:
            self.ended.set()
