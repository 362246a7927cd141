"""The block around the body: the body ends first, then the connections, and what leaves it is what the body raised."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast, final

import anyio
import attrs

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.log import log
from mcp_pool.config.servers import ServerConfig
from mcp_pool.errors import PoolClosed
from mcp_pool.supervision.supervisor import Supervisor


@final
@attrs.define(eq=False, repr=False)
class Block:
    """One `async with` block of a pool; it is entered once."""

    supervisor: Supervisor
    """Whose children live as long as the block."""
    _entered: bool = attrs.field(default=False, init=False)
    _opening: anyio.CancelScope = attrs.field(init=False, repr=False)
    _body: anyio.CancelScope = attrs.field(init=False, repr=False)

    def cancel(self) -> None:
        """Cancel the block: what it is opening, the body, then the connections. It swallows this cancellation."""
        self._opening.cancel()
        self._body.cancel()

    @asynccontextmanager
    async def hold(self, servers: Mapping[str, ServerConfig]) -> AsyncGenerator[None]:
        """Open the pool, run the body, and end all connections.

        Args:
            servers: Are connected before the body begins.

        Raises:
            PoolClosed: It was entered before.
            BaseException: Whatever the body raised, as the same object.
        """
        if self._entered:
            raise PoolClosed("A pool opens once. Make a new MCPPool for another block.")
        self._entered = True
        self._opening, self._body = anyio.CancelScope(), anyio.CancelScope()
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                self.supervisor.begin()
                group.start_soon(self.supervisor.run, name="mcp_pool: supervisor")
                try:
                    with self._opening:
                        await self.supervisor.open(servers)
                    with self._body:
                        try:
                            yield
                        except BaseException as error:
                            if _has_cancellation(error):
                                raise
                            # Kept from the scope as well: on trio it makes a new group of any group that passes it.
                            failure = error
                except BaseException as error:  # noqa: BLE001  # kept from the group, which would wrap it; raised below
                    failure = error
                finally:
                    self.supervisor.finish()
        except BaseException as error:  # noqa: BLE001  # likewise
            failure = _graver(failure, plain(error))
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback leads to this frame: without this, a cycle would keep both alive


def _graver(of_body: BaseException | None, of_connections: BaseException) -> BaseException:
    """Choose between what left the body and what ended the connections, which cancelled the body or failed its calls.

    An error of the body yields only to the end of the program, which a server in this program can ask for.
    """
    cancelled = anyio.get_cancelled_exc_class()
    if of_body is None or isinstance(of_body, cancelled):
        return of_connections
    if isinstance(of_connections, Exception):
        log("ERROR", None, "The connections ended with {}, behind the error of the body", type(of_connections).__name__)
        return of_body
    ends_program = isinstance(of_body, Exception) and not isinstance(of_connections, cancelled)
    return of_connections if ends_program else of_body


def _has_cancellation(error: BaseException) -> bool:
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).subgroup(cancelled) is not None
    return isinstance(error, cancelled)
