"""The block around the body. The body ends first, then the connections; what the body raised leaves the block."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast, final

import anyio
import attrs

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.log import log
from mcp_pool.config.target import ServerLike
from mcp_pool.errors import PoolClosed
from mcp_pool.supervision.supervisor import Supervisor


@final
@attrs.define(eq=False, repr=False)
class Block:
    """One `async with` block of a pool; it is entered once."""

    supervisor: Supervisor
    """Its children run for as long as the block."""
    _entered: bool = attrs.field(default=False, init=False)
    _opening: anyio.CancelScope = attrs.field(init=False, repr=False)
    _body: anyio.CancelScope = attrs.field(init=False, repr=False)

    def cancel(self) -> None:
        """Cancel the block: its opening or its body, then the connections. It swallows this cancellation."""
        self._opening.cancel()
        self._body.cancel()

    @asynccontextmanager
    async def hold(self, servers: Mapping[str, ServerLike]) -> AsyncGenerator[None]:
        """Open the pool, run the body, and end all connections.

        Args:
            servers: The servers to connect before the body starts.

        Raises:
            PoolClosed: The block has been entered before.
            BaseException: Whatever the body raised, as the same object.
        """
        if self._entered:
            raise PoolClosed("A pool can only be opened once.", advice="Create a new MCPPool for each block.")
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
                            # Kept away from the scope, too: on trio, a group passing it becomes a new object.
                            failure = error
                except BaseException as error:  # noqa: BLE001  # the group would wrap it; raised below
                    failure = error
                finally:
                    self.supervisor.finish()
        except BaseException as error:  # noqa: BLE001  # likewise
            failure = _more_important(failure, plain(error))
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # breaks a reference cycle: its traceback refers to this frame


def _more_important(of_body: BaseException | None, of_connections: BaseException) -> BaseException:
    """Choose between the error that left the body and the one that ended the connections.

    An error of the body only gives way to `SystemExit` and the like, which an in-process server may raise.
    """
    cancelled = anyio.get_cancelled_exc_class()
    if of_body is None or isinstance(of_body, cancelled):
        return of_connections
    if isinstance(of_connections, Exception):
        log("ERROR", None, "{} ended the connections after the body had failed", type(of_connections).__name__)
        return of_body
    ends_program = isinstance(of_body, Exception) and not isinstance(of_connections, cancelled)
    return of_connections if ends_program else of_body


def _has_cancellation(error: BaseException) -> bool:
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).subgroup(cancelled) is not None
    return isinstance(error, cancelled)
