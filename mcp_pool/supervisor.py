"""The task group: one child task per server, one cancel that ends them all.

::

    block (the user's task)                       cancelled first, cleans up first
    └─ supervisor task
       └─ shielded scope ── generations
          └─ generation ── group of children      ended when the body is done, or by close_all(): one cancel, no loop
             ├─ child "files"                     its row is born with it and dies with it
             └─ child "search"

A generation is a group of children and their registry. `close_all()` puts a fresh one in place, synchronously, and
ends the old one; so nothing is ever started into a group that has been cancelled, and nothing has to be cleared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import final

import anyio
import attrs
from anyio.lowlevel import EventLoopToken, current_token
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mcp_pool.child import Child
from mcp_pool.config import ServerConfig, check, limits
from mcp_pool.errors import ConfigError, ConnectError, ConnectionLost, PoolClosed, UnknownServer
from mcp_pool.events import Broadcast
from mcp_pool.gate import Gate
from mcp_pool.generation import Generation
from mcp_pool.health import Monitor
from mcp_pool.lifecycle import Closing, ConnectionStatus, Ready
from mcp_pool.log import log
from mcp_pool.registry import Registry, Row
from mcp_pool.settings import Seconds, Settings, resolve, timeout_problems
from mcp_pool.stats import PoolSnapshot
from mcp_pool.waiting import all_ready, opened, outcome


@final
@attrs.define(eq=False, repr=False)
class Supervisor:
    """Admits servers, finds them, and ends them."""

    settings: Settings
    """The pool's settings."""
    broadcast: Broadcast = attrs.field(factory=Broadcast, init=False)
    """Tells what happens."""
    current: Generation = attrs.field(init=False)
    """The generation that new servers belong to."""
    _closing: list[Generation] = attrs.field(factory=list[Generation], init=False)
    """Earlier generations whose children have not all ended, the oldest first."""
    _token: EventLoopToken | None = attrs.field(default=None, init=False)
    """The event loop that the pool belongs to; None while it is not open."""
    _gate: Gate = attrs.field(init=False)
    """Where dials wait for their turn."""
    _monitor: Monitor = attrs.field(factory=Monitor, init=False)
    """Asks servers that say nothing."""
    _succession: MemoryObjectSendStream[Generation] = attrs.field(init=False)
    """The way to the supervisor task, which runs each new generation."""
    _generations: MemoryObjectReceiveStream[Generation] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.current = self._nothing()
        self._gate = Gate(self.settings.max_connecting)

    @property
    def is_open(self) -> bool:
        """Whether servers can be admitted."""
        return self._token is not None

    def check_open(self) -> None:
        """Raise `PoolClosed` unless the pool is open, `RuntimeError` in another event loop or thread."""
        if self._token is None:
            raise PoolClosed("The pool is not open: use it inside its `async with` block, and make a new one after it.")
        self._check_here()

    @property
    def view(self) -> Generation:
        """The current generation, for who looks at it from outside: empty while the pool is not open.

        Raises:
            RuntimeError: The pool is open in another event loop or thread, where it may change at any moment.
        """
        if self._token is not None:
            self._check_here()
        return self.current

    def begin(self) -> None:
        """Open for business. Synchronous: a cancellation must find the pool either not begun or about to `finish`."""
        self._succession, self._generations = anyio.create_memory_object_stream[Generation](math.inf)
        self._token = current_token()
        self._succeed()

    async def run(self) -> None:
        """Run the generations until `finish` is called and the last has ended.

        Shielded: when the block is cancelled, the body ends first, and the connections after it.
        """
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as watching:
                watching.start_soon(self._monitor.run, name="mcp_pool: monitor")
                async with anyio.create_task_group() as group, self._generations:
                    async for generation in self._generations:
                        group.start_soon(self._run_generation, generation)
                watching.cancel_scope.cancel()

    def finish(self) -> None:
        """End all children, for good. The end of the task that runs `run` tells when they have."""
        self._token = None
        last, self.current = self.current, self._nothing()
        for generation in (*self._closing, last):
            generation.end()
        self._succession.close()
        self.broadcast.end()

    async def close_all(self, drain: float) -> None:
        """See `MCPPool.close_all`."""
        self.check_open()
        _check_drain(drain)
        old = self.current
        self._succeed()
        old.registry.retire()
        self._closing.append(old)
        ending = tuple(self._closing)
        for earlier in ending[:-1]:
            earlier.end()  # one that is drained no longer: "at once" holds for whatever was admitted before
        draining = tuple(old.registry.rows.values()) if drain else ()
        for row in draining:  # before any wait: a call that waits for a slot must not begin now, to be cut off later
            row.refuse()
        try:
            with anyio.move_on_after(drain):
                for row in draining:
                    await row.idle()
        finally:
            old.end()
        for generation in ending:
            await generation.ended.wait()

    def add(self, server_id: str, spec: ServerConfig, *, kept: bool = True) -> Row:
        """See `MCPPool.add`. With `kept` false the child ends when its first dial fails."""
        self.check_open()
        check(server_id, spec)
        row = self._living(server_id)
        if row is not None:
            if row.spec != spec:
                raise ConfigError(
                    f"server {server_id!r}: config differs from that of the living server of this id, "
                    f"which goes on undisturbed. Call disconnect({server_id!r}) first.",
                    server_id=server_id,
                    field="config",
                )
            if kept and not row.kept:
                row.kept = True
                row.dial_again()  # its first dial may have failed in this very moment
            return row
        row = self.current.registry.admit(
            server_id, spec, limits(self.settings, spec, server_id), kept=kept, predecessor=self._predecessor(server_id)
        )
        self.current.start(Child(row, self._gate, self._monitor))
        return row

    async def connect(self, server_id: str, spec: ServerConfig) -> bool:
        """See `MCPPool.connect`."""
        row = self.add(server_id, spec, kept=False)
        if isinstance(row.state, Ready):
            log("WARNING", server_id, "Server {!r} is connected already", server_id)
            return True
        await outcome(row)
        return True

    async def disconnect(self, server_id: str, drain: float) -> bool:
        """See `MCPPool.disconnect`."""
        self.check_open()
        _check_drain(drain, server_id)
        row = self.current.registry.rows.get(server_id)
        if row is None:
            log("WARNING", server_id, "No server {!r} to disconnect", server_id)
            return False
        row.refuse()
        try:
            with anyio.move_on_after(drain):
                await row.idle()
                for older in row.predecessors():
                    await older.ended.wait()
        finally:
            for ending in (row, *row.predecessors()):
                ending.scope.cancel()
        await row.ended.wait()
        return True

    def row(self, server_id: str) -> Row:
        """Return the row of a living server, or raise `UnknownServer`."""
        self.check_open()
        row = self.current.registry.rows.get(server_id)
        if row is None:
            known = ", ".join(sorted(self.current.registry.rows)) or "none"
            raise UnknownServer(
                f"No server {server_id!r} in the pool; the living are: {known}. Add it first.", server_id=server_id
            )
        return row

    def status(self, server_id: str) -> ConnectionStatus | None:
        """See `MCPPool.get_status`."""
        registry = self.view.registry
        if server_id in registry.rows:
            return registry.rows[server_id].state.status
        departed = registry.departed.get(server_id)
        return None if departed is None else departed.status

    def last_error(self, server_id: str) -> ConnectError | ConnectionLost | None:
        """Return the latest failure of a living or departed server."""
        registry = self.view.registry
        known = registry.rows.get(server_id)
        departed = registry.departed.get(server_id)
        if known is not None:
            return known.last_error
        return None if departed is None else departed.error

    def snapshot(self) -> PoolSnapshot:
        """See `MCPPool.snapshot`."""
        rows = self.view.registry.rows
        return PoolSnapshot(
            time=anyio.current_time() if self.is_open else 0.0,
            servers=MappingProxyType({server_id: row.snapshot() for server_id, row in rows.items()}),
        )

    async def open(self, servers: Mapping[str, ServerConfig]) -> None:
        """Dial servers in parallel and wait for first outcomes, as `MCPPool` says of its opening."""
        for server_id, spec in servers.items():
            self.add(server_id, spec)
        rows = [self.row(server_id) for server_id in servers]
        await opened(rows, self.settings.open_timeout)

    async def wait_ready(self, server_ids: tuple[str, ...], timeout: Seconds) -> None:
        """See `MCPPool.wait_ready`."""
        self.check_open()
        for field, problem in timeout_problems({"timeout": timeout}):
            raise ConfigError(f"wait_ready: {field} {problem}.", field=field)
        seconds = resolve(timeout, self.settings.wait_timeout)
        await all_ready([self.row(i) for i in server_ids or tuple(self.current.registry.rows)], seconds)

    def _check_here(self) -> None:
        try:
            here = current_token() == self._token
        except RuntimeError:  # there is no event loop in this thread
            here = False
        if not here:
            raise RuntimeError("This pool belongs to another event loop or thread; use it where it was opened.")

    def _living(self, server_id: str) -> Row | None:
        row = self.current.registry.rows.get(server_id)
        return None if row is None or isinstance(row.state, Closing) else row

    def _predecessor(self, server_id: str) -> Row | None:
        """Return the newest row of this id that has not ended."""
        for generation in (self.current, *reversed(self._closing)):
            if server_id in generation.registry.rows:
                return generation.registry.rows[server_id]
        return None

    def _succeed(self) -> None:
        """Put a fresh generation in place."""
        self.current = Generation(Registry(self.broadcast))
        self._succession.send_nowait(self.current)

    async def _run_generation(self, generation: Generation) -> None:
        await generation.run()
        if generation in self._closing:
            self._closing.remove(generation)

    def _nothing(self) -> Generation:
        """Return what the pool holds while it is not open."""
        generation = Generation(Registry(self.broadcast))
        generation.discard()
        return generation


def _check_drain(drain: float, server_id: str | None = None) -> None:
    for field, problem in timeout_problems({"drain": drain}, unbounded=False, inherited=False):
        whose = "close_all" if server_id is None else f"server {server_id!r}"
        raise ConfigError(f"{whose}: {field} {problem}.", server_id=server_id, field=field)
