"""`MCPPool`, the block that users open. It checks arguments and delegates."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self, Unpack, final

from anyio import AsyncContextManagerMixin

from mcp_pool.catalog_calls import CatalogCalls
from mcp_pool.config.callbacks import CallbacksFor
from mcp_pool.config.launch_limits import LAUNCH_LIMITS
from mcp_pool.config.loaded import Inputs, Source
from mcp_pool.config.loading import load_config
from mcp_pool.config.policies import HealthCheck, RestartPolicy
from mcp_pool.config.settings import DEFAULT, NameTool, PoolSettings, Seconds, Settings
from mcp_pool.config.target import ServerLike, all_checked
from mcp_pool.supervision.changes import Changes
from mcp_pool.supervision.state import ConnectionStatus
from mcp_pool.telemetry.events import EventStream
from mcp_pool.telemetry.snapshot import PoolSnapshot


@final
class MCPPool(CatalogCalls, AsyncContextManagerMixin):
    """Keeps many MCP connections open inside one `async with` block.

    All times are in seconds. None means no limit; `close_timeout` must have one.

    Args:
        servers: Ids and specs of the servers to connect when the block opens.
        connect_timeout: Limit for one connection attempt: the wait for a slot, start, handshake and first listing.
            Default 30.
        open_timeout: Limit for opening the block, which waits until each server's first attempt has ended. Servers with
            `required=True` may take longer. Default 10.
        wait_timeout: How long a call waits for a server that is connecting or backing off, and for a slot; with 0 it
            fails at once. Default 30.
        call_timeout: How long a server may be silent during a call; progress restarts the time. Default 60.
        max_call_time: Limit for one call as a whole. Default 3600.
        close_timeout: How long a connection may take to close cleanly. Default 5.
        restart: When to reconnect after a connection is lost or an attempt fails.
        health: When to probe a silent server; None disables health checks.
        max_connecting: How many servers connect at once. A server that hangs holds its slot for only a second.
            Default 16.
        launch_limits: How many servers launched by one program may be starting at once, by the program's name: package
            runners can corrupt their cache when several start together. A server counts as starting until it is
            connected, for at most 30 s. Merged over the default: 2 each for npx, npm, pnpm, yarn, bunx, uvx, uv and
            pipx, 4 each for docker and podman. None removes the limit of one program, or as the argument all.
        callbacks: A function from a server's id to its callbacks, used for those that its spec leaves out.
        name_tool: A function of a server's id and its own name for a tool that returns the tool's name in the catalog.
            If two tools get the same name, the server that comes second fails to connect, with `NameCollision`.
            Default: `catalog_name`, with which that cannot happen.

    Raises:
        ConfigError: An argument or one of the servers is invalid; the message names it.
    """

    def __init__(
        self,
        servers: Mapping[str, ServerLike] | None = None,
        *,
        connect_timeout: float | None = 30.0,
        open_timeout: float | None = 10.0,
        wait_timeout: float | None = 30.0,
        call_timeout: float | None = 60.0,
        max_call_time: float | None = 3600.0,
        close_timeout: float = 5.0,
        restart: RestartPolicy = RestartPolicy(),  # noqa: B008  # a frozen value, safe to share
        health: HealthCheck | None = HealthCheck(),  # noqa: B008  # likewise
        max_connecting: int = 16,
        launch_limits: Mapping[str, int | None] | None = LAUNCH_LIMITS,
        callbacks: CallbacksFor | None = None,
        name_tool: NameTool | None = None,
    ) -> None:
        settings = Settings(
            connect_timeout=connect_timeout,
            open_timeout=open_timeout,
            wait_timeout=wait_timeout,
            call_timeout=call_timeout,
            max_call_time=max_call_time,
            close_timeout=close_timeout,
            restart=restart,
            health=health,
            max_connecting=max_connecting,
            launch_limits=launch_limits,
            callbacks=callbacks,
            name_tool=name_tool,
        )
        from mcp_pool.catalog.catalog import Catalog  # noqa: PLC0415  # loaded late: `import mcp_pool` is to be fast
        from mcp_pool.supervision.block import Block  # noqa: PLC0415
        from mcp_pool.supervision.supervisor import Supervisor  # noqa: PLC0415

        self._servers = all_checked(servers)
        self._supervisor = Supervisor(settings)
        self._catalog = Catalog(self._supervisor)
        self._block = Block(self._supervisor)

    @classmethod
    def from_config(
        cls,
        source: Source,
        *,
        inputs: Inputs | None = None,
        strict: bool = False,
        **settings: Unpack[PoolSettings],
    ) -> Self:
        """Return a pool of the servers in a configuration file of an MCP host, such as Claude Desktop or VS Code.

        Args:
            source: The path of the file, or its content as a mapping; see `load_config`.
            inputs: As in `load_config`; so are the errors.
            strict: Whether an invalid entry is an error; by default, it is a server that fails to connect.
            settings: Settings of the pool, which override those in the file.
        """
        loaded = load_config(source, inputs=inputs, strict=strict)
        merged: PoolSettings = {**loaded.settings, **settings}
        return cls(loaded, **merged)

    def __repr__(self) -> str:
        state, servers = "open" if self._supervisor.is_open else "closed", self._supervisor.registry.servers
        return f"<MCPPool {state}, {servers.connected_count} of {len(servers.rows)} servers connected>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._block.hold(self._servers):
            yield self

    async def connect(self, server_id: str, config: ServerLike) -> bool:
        """Connect a server and wait until it is connected; from then on it is supervised under its restart policy.

        Concurrent calls for the same id share one attempt, which is cancelled only when the last of them is. A server
        that is backing off or has failed connects at once, with the new config if it differs.

        Args:
            server_id: Any non-empty printable string.
            config: What to connect to.

        Returns:
            True. If the server was already connected with an equal config, a warning is logged.

        Raises:
            ConfigError: An argument is invalid, or a server with this id and another config is connecting or connected.
            ConnectError: The attempt failed. The server's status is `ERROR`, its child task has ended, and `connect`
                may be called again. A server that was already in the pool stays there, under its restart policy.
            ConnectTimeout: Likewise: the attempt took longer than `connect_timeout`.
            PoolClosed: The pool is not open.
        """
        return await self._supervisor.connect(server_id, config)

    def add(self, server_id: str, config: ServerLike) -> None:
        """Add a server and return at once; it keeps trying to connect, under its restart policy.

        Arguments as in `connect`. Does nothing if a current server has this id and an equal config.

        Raises:
            ConfigError: An argument is invalid, or a current server has this id and another config; see `replace`.
            PoolClosed: The pool is not open.
        """
        self._supervisor.add(server_id, config)

    async def disconnect(self, server_id: str, *, drain: float = 5.0) -> bool:
        """Disconnect a server, even one that is still connecting, and wait until it is gone.

        Args:
            server_id: The server's id.
            drain: How many seconds calls in flight have to finish; new calls are refused at once.

        Returns:
            True; or False, with a warning in the log, if no current server has this id.
        """
        return await self._supervisor.disconnect(server_id, drain)

    async def replace(self, server_id: str, config: ServerLike, *, drain: float = 5.0) -> bool:
        """Disconnect a server, whatever its state, connect it with another config, and wait until it is connected.

        Calls that arrive meanwhile wait for the new connection. The server keeps its place in the catalog.

        Args:
            server_id: The server's id.
            config: What to connect to from now on, even if the first attempt fails.
            drain: How many seconds calls in flight have to finish.

        Returns:
            True.

        Raises:
            ConfigError: An argument is invalid; nothing was disturbed.
            UnknownServer: No current server has this id.
            ConnectError: The first attempt with the new config failed; the server stays in the pool, under its restart
                policy.
        """
        return await self._supervisor.replace(server_id, config, drain)

    async def apply(self, servers: Mapping[str, ServerLike], *, drain: float = 5.0) -> Changes:
        """Make the pool hold exactly these servers, and wait until the first attempts of new ones have ended.

        Everything is validated before anything is changed. Unchanged servers are not disturbed; those that are added or
        replaced stay in the pool even if they do not connect. Concurrent calls run one after another.

        Args:
            servers: Specs by id, or what `load_config` returns.
            drain: How many seconds calls in flight have to finish on servers that are replaced or removed.

        Returns:
            What was done.

        Raises:
            ConfigError: A spec is invalid; the error names all of them. Nothing was changed.
        """
        from mcp_pool.supervision.reconcile import apply  # noqa: PLC0415  # few programs need it

        return await apply(self._supervisor, servers, drain)

    def watch_config(
        self, path: str | os.PathLike[str], *, inputs: Inputs | None = None, drain: float = 5.0
    ) -> AbstractAsyncContextManager[None]:
        """Apply a configuration file now, and whenever it changes until the context manager is left.

        A changed file that is invalid is not applied: there are a `ConfigRejected` event and a warning in the log. The
        file's settings of the whole pool have no effect. Needs the extra `watch`.

        Args:
            path: The file.
            inputs: As in `load_config`.
            drain: As in `apply`.

        Raises:
            ConfigError: The file is invalid on entry. Nothing was changed.
        """
        from mcp_pool.supervision.config_watch import watch_config  # noqa: PLC0415  # likewise

        return watch_config(self._supervisor, path, inputs, drain)

    async def close_all(self, *, drain: float = 0.0) -> None:
        """Disconnect all servers at once and wait until they are gone. Never raises because of a server.

        All servers that were added before the call are disconnected, even if the caller is cancelled. The pool can be
        used again at once; servers that are added meanwhile stay.

        Args:
            drain: How many seconds calls in flight have to finish.
        """
        await self._supervisor.close_all(drain)

    def cancel(self) -> None:
        """Cancel the whole block: first the body, then the connections. The block swallows this cancellation."""
        self._supervisor.check_open()
        self._block.cancel()

    def get_status(self, server_id: str) -> ConnectionStatus | None:
        """Return the status of a server; None for an unknown id.

        The last 1,024 servers that left the pool are remembered until `close_all()` or the end of the block.
        """
        return self._supervisor.registry.servers.status(server_id)

    def get_all_statuses(self) -> dict[str, ConnectionStatus]:
        """Return the statuses of the current servers and of the remembered ones, by id, as a copy."""
        return self._supervisor.registry.servers.statuses()

    @property
    def connected_count(self) -> int:
        """How many servers are `CONNECTED`."""
        return self._supervisor.registry.servers.connected_count

    async def wait_ready(self, *server_ids: str, timeout: Seconds = DEFAULT) -> None:
        """Wait until these servers, or all, are connected.

        Args:
            server_ids: The servers to wait for; without any, all current ones.
            timeout: How many seconds to wait; None for no limit. Default: the pool's `wait_timeout`.

        Raises:
            ConnectError: A server has failed: the error that stopped its reconnects. `ConnectionLost` likewise.
            ServerUnavailable: The time is up, or a server was disconnected; the message names the missing servers.
            UnknownServer: No current server has one of these ids.
        """
        await self._supervisor.wait_ready(server_ids, timeout)

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[EventStream]:
        """Subscribe to events: an async context manager that gives an async iterator.

        It may be entered before the pool's block, to see the servers connect. A reader that is too slow loses the
        oldest events and is told how many. The iterator ends with the pool's block.
        """
        if self._supervisor.is_open or self._supervisor.broadcast.is_closed:
            self._supervisor.check_open()
        queue = self._supervisor.broadcast.subscribe()
        try:
            yield EventStream(queue)
        finally:
            self._supervisor.broadcast.unsubscribe(queue)

    def snapshot(self) -> PoolSnapshot:
        """Return the current state of all servers as one frozen value. May be called from any thread."""
        supervisor = self._supervisor
        return PoolSnapshot.of(supervisor.registry.rows, supervisor.counters, supervisor.now())
