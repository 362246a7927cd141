"""The task group: one child task per server, one cancellation that ends them all.

::

    block (the user's task)                       cancelled first, cleans up first
    └─ supervisor task
       └─ shielded scope ── child groups          ended after the body, or by close_all(): one cancellation, no loop
          └─ child group ── children
             ├─ child "files"                     its row exists exactly as long as the child
             └─ child "search"

`close_all()` puts a new child group in place, synchronously, and ends the old one. So no child is ever started in a
group that has been cancelled, and there is nothing to reset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import anyio
import attrs
from anyio.lowlevel import EventLoopToken, current_token
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mcp_pool._shared.log import log
from mcp_pool._shared.loops import check_current, is_current
from mcp_pool.config.settings import Seconds, Settings, resolve, timeout_problems
from mcp_pool.config.target import ServerLike, Target, checked
from mcp_pool.connection.deadline_timer import DeadlineTimer
from mcp_pool.errors import ConfigError, PoolClosed, UnknownServer
from mcp_pool.supervision.child import Child
from mcp_pool.supervision.child_group import ChildGroup
from mcp_pool.supervision.connect_limiter import ConnectLimiter
from mcp_pool.supervision.counters import Counters
from mcp_pool.supervision.events import Broadcast
from mcp_pool.supervision.health import HealthMonitor
from mcp_pool.supervision.registry import Registry
from mcp_pool.supervision.row import CLOSED_WITH_ALL, Row
from mcp_pool.supervision.state import BackingOff, Closing, Failed, Ready
from mcp_pool.supervision.waiting import wait_until_all_ready, wait_until_connected, wait_until_open

if TYPE_CHECKING:
    from mcp_pool.transports.stdio.guardian import Guardian


@final
@attrs.define(eq=False, repr=False)
class Supervisor:
    """Adds servers, finds them, and ends them."""

    settings: Settings
    """The pool's settings."""
    counters: Counters = attrs.field(factory=Counters, init=False)
    """The calls and restarts of its servers, including those that have left."""
    broadcast: Broadcast = attrs.field(factory=Broadcast, init=False)
    """Sends events to their readers."""
    applying: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)
    """Held while a set of servers is applied: one after another."""
    _current: ChildGroup = attrs.field(init=False)
    """The child group that new servers are added to."""
    _closing: list[ChildGroup] = attrs.field(factory=list[ChildGroup], init=False)
    """Earlier child groups whose children have not all ended, oldest first."""
    _token: EventLoopToken | None = attrs.field(default=None, init=False)
    """The event loop that the pool belongs to; None while it is not open."""
    _limiter: ConnectLimiter = attrs.field(init=False)
    _monitor: HealthMonitor = attrs.field(factory=HealthMonitor, init=False)
    _timer: DeadlineTimer = attrs.field(factory=DeadlineTimer, init=False)
    _guardian: Guardian | None = attrs.field(default=None, init=False)
    """Ends the servers' processes if this program is killed; started with the first process."""
    _new_groups: MemoryObjectSendStream[ChildGroup] = attrs.field(init=False)
    """Passes new child groups to the supervisor task, which runs them."""
    _groups: MemoryObjectReceiveStream[ChildGroup] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._current = _discarded(Registry(self.broadcast, self.counters, self.settings.name_tool))
        self._limiter = ConnectLimiter(self.settings.max_connecting, self.settings.launch_limits)

    @property
    def is_open(self) -> bool:
        """Whether servers can be added."""
        return self._token is not None

    def check_open(self) -> None:
        """Raise `PoolClosed` if the pool is not open, `RuntimeError` in another event loop or thread."""
        token = self._token
        if token is None:
            reason = "The pool is not open."
            raise PoolClosed(reason, advice="Use it inside its `async with` block; a pool cannot be opened again.")
        check_current(token)

    def check_here(self) -> None:
        """Raise `RuntimeError` if the pool is open in another event loop or thread."""
        token = self._token
        if token is not None:
            check_current(token)

    @property
    def registry(self) -> Registry:
        """The registry of the current servers, readable from any thread; empty while the pool is not open."""
        return self._current.registry

    def begin(self) -> None:
        """Open the pool. Synchronous, so that no cancellation can come between this and the `finally` of the block."""
        self.broadcast.check_loop()
        self._new_groups, self._groups = anyio.create_memory_object_stream[ChildGroup](math.inf)
        self._token = current_token()
        self._begin_group()

    async def run(self) -> None:
        """Run the child groups until `finish` is called and the last one has ended.

        Shielded: when the block is cancelled, the body ends first, and the connections after it.
        """
        try:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as watching:
                    watching.start_soon(self._monitor.run, name="mcp_pool: health monitor")
                    watching.start_soon(self._timer.run, name="mcp_pool: deadline timer")
                    async with anyio.create_task_group() as running, self._groups:
                        async for group in self._groups:
                            running.start_soon(self._run_group, group)
                    watching.cancel_scope.cancel()
        finally:
            if self._guardian is not None:
                self._guardian.close()

    def finish(self) -> None:
        """End all children and close the pool. They have ended when `run` returns."""
        self._token = None
        last, self._current = self._current, _discarded(self.registry.successor())
        for group in (*self._closing, last):
            group.end()
        self._new_groups.close()
        self.broadcast.close()

    async def close_all(self, drain: float) -> None:
        """See `MCPPool.close_all`."""
        self.check_open()
        check_drain(drain, "close_all")
        old = self._current
        self._begin_group()
        old.registry.retire()
        self._closing.append(old)
        ending = tuple(self._closing)
        for earlier in ending[:-1]:
            earlier.end()  # a group that still drains is cut short: all earlier servers are to end at once
        draining = tuple(old.registry.rows.values()) if drain else ()
        for row in draining:  # before any await: a call that waits for a slot must not start now and be cut off later
            row.refuse(CLOSED_WITH_ALL)
        try:
            with anyio.move_on_after(drain):
                for row in draining:
                    await row.idle()
        finally:
            old.end()
        for group in ending:
            await group.ended.wait()

    def add(self, server_id: str, config: ServerLike, *, persistent: bool = True) -> Row:
        """See `MCPPool.add`. A server that is not persistent ends when its first attempt fails."""
        self.check_open()
        spec = checked(server_id, config)
        row = self.registry.rows.get(server_id)
        if row is not None and not isinstance(row.state, Closing):
            if row.target.spec != spec:
                raise ConfigError(
                    f"server {server_id!r}: config differs from that of the current server with this id, "
                    "which keeps running.",
                    advice=f"Call replace({server_id!r}, …), or disconnect({server_id!r}) first.",
                    server_id=server_id,
                    problems=[("config", "differs from that of the current server with this id")],
                )
            if persistent and not row.persistent:
                row.persistent = True
                row.request_attempt()  # its first attempt may just have failed
            return row
        target = Target.of(self.settings, server_id, spec)
        return self._admit(target, persistent=persistent, predecessor=self._predecessor(server_id))

    async def connect(self, server_id: str, config: ServerLike) -> bool:
        """See `MCPPool.connect`."""
        self.check_open()
        spec = checked(server_id, config)
        row = self.registry.rows.get(server_id)
        if row is not None and isinstance(row.state, BackingOff | Failed) and row.target.spec != spec:
            return await self.replace(server_id, spec, 0.0)
        row = self.add(server_id, spec, persistent=False)
        if isinstance(row.state, Ready):
            log("WARNING", server_id, "Server {!r} is already connected", server_id)
            return True
        await wait_until_connected(row)
        return True

    async def replace(self, server_id: str, config: ServerLike, drain: float) -> bool:
        """See `MCPPool.replace`."""
        self.check_open()
        check_drain(drain, f"server {server_id!r}", server_id)
        spec = checked(server_id, config)
        old = self.row(server_id)
        target = Target.of(self.settings, server_id, spec)
        old.refuse()
        row = self._admit(target, persistent=True, predecessor=old, replaces=True)
        await self._end(old, drain)
        await wait_until_connected(row)
        return True

    async def disconnect(self, server_id: str, drain: float) -> bool:
        """See `MCPPool.disconnect`."""
        self.check_open()
        check_drain(drain, f"server {server_id!r}", server_id)
        row = self.registry.rows.get(server_id)
        if row is None:
            log("WARNING", server_id, "There is no server {!r} to disconnect", server_id)
            return False
        row.refuse()
        await self._end(row, drain)
        await row.ended.wait()
        return True

    def row(self, server_id: str) -> Row:
        """Return the row of a current server, or raise `UnknownServer`."""
        self.check_open()
        row = self.registry.rows.get(server_id)
        if row is None:
            current = ", ".join(sorted(self.registry.rows)) or "none"
            reason = f"There is no server {server_id!r} in the pool. Current servers: {current}."
            raise UnknownServer(reason, advice="Add it first, with connect() or add().", server_id=server_id)
        return row

    async def open(self, servers: Mapping[str, ServerLike]) -> None:
        """Connect servers in parallel and wait for their first outcomes; see `open_timeout` of `MCPPool`."""
        await wait_until_open([self.add(*server) for server in servers.items()], self.settings.open_timeout)

    async def wait_ready(self, server_ids: tuple[str, ...], timeout: Seconds) -> None:
        """See `MCPPool.wait_ready`."""
        self.check_open()
        for problem in timeout_problems({"timeout": timeout}):
            raise ConfigError(f"wait_ready: {' '.join(problem)}.", problems=[problem])
        rows = [self.row(server_id) for server_id in server_ids or tuple(self.registry.rows)]
        await wait_until_all_ready(rows, resolve(timeout, self.settings.wait_timeout))

    def _admit(self, target: Target, *, persistent: bool, predecessor: Row | None, replaces: bool = False) -> Row:
        row = self.registry.admit(target, persistent=persistent, predecessor=predecessor, replaces=replaces)
        self._current.start(Child(row, self._limiter, self._get_guardian, self._monitor, self._timer))
        return row

    async def _end(self, row: Row, drain: float) -> None:
        """Wait up to `drain` seconds for a server's calls in flight to finish, then end its child."""
        try:
            with anyio.move_on_after(drain):
                await row.idle()
                for older in row.predecessors():
                    await older.ended.wait()
        finally:
            for ending in (row, *row.predecessors()):
                ending.scope.cancel()

    def _get_guardian(self) -> Guardian:
        if self._guardian is None:
            from mcp_pool.transports.stdio.guardian import Guardian  # noqa: PLC0415  # only needed for processes

            self._guardian = Guardian(lambda text: log("WARNING", None, "{}", text))
        return self._guardian

    def now(self) -> float | None:
        """Return the time on the pool's event loop; None in another thread or if the pool is not open."""
        token = self._token
        return anyio.current_time() if token is not None and is_current(token) else None

    def _predecessor(self, server_id: str) -> Row | None:
        """Return the newest row with this id that has not ended."""
        for group in (self._current, *reversed(self._closing)):
            if server_id in group.registry.rows:
                return group.registry.rows[server_id]
        return None

    def _begin_group(self) -> None:
        """Put a new child group in place."""
        self._current = ChildGroup(self.registry.successor())
        self._new_groups.send_nowait(self._current)

    async def _run_group(self, group: ChildGroup) -> None:
        await group.run()
        if group in self._closing:
            self._closing.remove(group)


def _discarded(registry: Registry) -> ChildGroup:
    """Return the child group of a pool that is not open."""
    group = ChildGroup(registry)
    group.discard()
    return group


def check_drain(drain: float, whose: str, server_id: str | None = None) -> None:
    """Raise `ConfigError` unless `drain` is a number of seconds."""
    for problem in timeout_problems({"drain": drain}, unbounded=False, inherited=False):
        raise ConfigError(f"{whose}: {' '.join(problem)}.", server_id=server_id, problems=[problem])
