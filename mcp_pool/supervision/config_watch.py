"""Follows a configuration file: applies it whenever its content changes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.log import log
from mcp_pool.config.loaded import Inputs
from mcp_pool.config.loading import load_config
from mcp_pool.errors import ConfigError, PoolClosed
from mcp_pool.supervision.events import ConfigRejected
from mcp_pool.supervision.reconcile import apply
from mcp_pool.supervision.supervisor import Supervisor

LONGEST_WAIT: Final = 1000
"""Milliseconds after which the file is compared even without a notification: it may have changed before the watch
began, and some network file systems send none."""


@final
@attrs.define(eq=False, repr=False)
class _Watch:
    supervisor: Supervisor
    path: Path
    inputs: Inputs | None
    drain: float
    stop: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Ends the watch at once: the watcher notices a cancellation only after its longest wait."""
    _content: bytes | None = attrs.field(default=None, init=False)
    """What the file contained when it was last applied or rejected; None if it could not be read."""

    async def apply(self) -> None:
        """Apply the file, or raise `ConfigError`."""
        self._content = self._read()
        await apply(self.supervisor, load_config(self.path, inputs=self.inputs), self.drain)

    async def run(self) -> None:
        """Apply the file whenever it changes, until cancelled or until the pool is closed."""
        from watchfiles import awatch  # noqa: PLC0415  # an extra

        # The directory, not the file: editors write another file and rename it. No filter: the file may be a link.
        changes = awatch(
            self.path.parent,
            watch_filter=None,
            recursive=False,
            rust_timeout=LONGEST_WAIT,
            yield_on_timeout=True,
            stop_event=self.stop,
        )
        async with aclosing(changes):
            async for _ in changes:
                if self._read() != self._content and not await self._follow():
                    break

    async def _follow(self) -> bool:
        """Apply the changed file, or tell what is wrong with it. Returns False if the pool is closed."""
        failure: ConfigError | None = None
        try:
            await self.apply()
        except ConfigError as error:
            failure = error
        except PoolClosed:
            return False
        if failure is None:
            log("INFO", None, "The servers of {} were applied", self.path)
        else:
            self.supervisor.broadcast.send(ConfigRejected(str(self.path), failure))
            log("WARNING", None, "{} has changed, but was not applied. {}", self.path, failure)
        return True

    def _read(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except OSError:
            return None


@asynccontextmanager
async def watch_config(
    supervisor: Supervisor, path: str | os.PathLike[str], inputs: Inputs | None, drain: float
) -> AsyncGenerator[None]:
    """See `MCPPool.watch_config`."""
    if find_spec("watchfiles") is None:
        advice = "Install the extra: mcp-pool-supervisor[watch]."
        raise ConfigError("watch_config needs the package watchfiles. Nothing was changed.", advice=advice)
    watch = _Watch(supervisor, Path(os.path.expanduser(path)), inputs, drain)  # noqa: ASYNC240, PTH111  # no I/O
    await watch.apply()
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch.run, name=f"mcp_pool: watch of {watch.path.name}")
            try:
                yield
            except Exception as error:  # noqa: BLE001  # raised below: the task group would wrap it
                failure = error
            watch.stop.set()
            group.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise plain(group) from None
    if failure is not None:
        raise failure
