"""Random programs: what they consist of, what carries them out, and what must be true after every step."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import attrs
from hypothesis import strategies as st
from mcp import MCPError
from mcp_types import CallToolResult, Tool

from helpers.common import alive, connection_of, scripted
from helpers.fake import FakeConnector
from mcp_pool import (
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    InProcessServer,
    MCPPool,
    PoolClosed,
    RestartPolicy,
    ServerUnavailable,
    StdioServer,
    UnknownServer,
    UnknownTool,
)
from mcp_pool.supervision.events import PoolCleared, ServerAdded, ServerRemoved, StatusChanged
from mcp_pool.supervision.state import Failed, Ready
from mcp_pool.transports.channel import DisconnectCause
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mcp_pool import ServerConfig

IDS = ("a", "b", "c")

DOCUMENTED: dict[str, tuple[type[Exception], ...]] = {
    "connect": (ConnectError, ConfigError),
    "connect otherwise": (ConnectError, ConfigError),
    "add": (ConfigError,),
    "disconnect": (),
    "close_all": (),
    "restart": (ConnectError, UnknownServer),
    "call": (ConnectionLost, ServerUnavailable, UnknownServer, UnknownTool),
    "wait_ready": (ConnectError, ConnectionLost, ServerUnavailable, UnknownServer),
    "crash": (),
    "break": (),
    "repair": (),
    "cancel": (),
    "checkpoint": (),
}
"""The operations of a program, and the errors that each may raise."""


@attrs.frozen
class Operation:
    """One step of one task."""

    name: str
    server_id: str
    number: int
    """Which of the running operations to cancel, how many checkpoints to pass, or how many milliseconds to drain."""

    def __repr__(self) -> str:
        return f"{self.name} {self.server_id} {self.number}"


def programs(*, tasks: int, length: int) -> st.SearchStrategy[list[list[Operation]]]:
    """Lists of operations, one list per task."""
    operation = st.builds(Operation, st.sampled_from(sorted(DOCUMENTED)), st.sampled_from(IDS), st.integers(0, 9))
    return st.lists(st.lists(operation, min_size=1, max_size=length), min_size=1, max_size=tasks)


class World(Protocol):
    """What the servers of a program are made of."""

    def spec(self, server_id: str, *, other: bool = False) -> ServerConfig:
        """What to connect to."""
        ...

    def instances(self, server_id: str) -> list[Any]:
        """The running instances of a server: at most one at any time."""
        ...

    def crash(self, server_id: str) -> None:
        """End the running instance."""
        ...

    def set_broken(self, server_id: str, *, broken: bool) -> None:
        """Make its attempts fail from now on, or stop doing so."""
        ...


class FakeWorld:
    """Connections without servers; replaces `Connector` and keeps its promises to the child."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.running: dict[str, list[FakeConnector]] = {server_id: [] for server_id in IDS}
        self.pace = 0

    def spec(self, server_id: str, *, other: bool = False) -> ServerConfig:
        policy = RestartPolicy(initial_delay=0.0, max_restarts=2 if server_id == "c" else None)
        return StdioServer("a-program-that-is-never-run", ["other"] if other else [], restart=policy)

    def instances(self, server_id: str) -> list[FakeConnector]:
        return self.running[server_id]

    def crash(self, server_id: str) -> None:
        for connector in self.running[server_id]:
            connector.channel.mark_lost(DisconnectCause("fell over"))

    def set_broken(self, server_id: str, *, broken: bool) -> None:
        (self.broken.add if broken else self.broken.discard)(server_id)

    async def take_time(self) -> None:
        """Yield to other tasks a few times, a different number each time."""
        self.pace = (self.pace * 5 + 3) % 7
        for _ in range(self.pace):
            await anyio.lowlevel.checkpoint()

    def connector(self, *args: Any, **options: Any) -> _Running:
        """Replace the class `Connector`."""
        return _Running(self, *args, **options)


class _Running(FakeConnector):
    def __init__(self, world: FakeWorld, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.world = world

    async def run(self) -> None:
        """See `Connector.run`."""
        world, running = self.world, self.world.running[self.server_id]
        running.append(self)
        try:
            with anyio.CancelScope() as scope:
                await anyio.lowlevel.checkpoint()
                await world.take_time()
                if self.server_id in world.broken:
                    self.channel.mark_lost(DisconnectCause("is broken"))
                if self.channel.disconnect_cause is None:
                    scope.shield = True
                    echo = Tool(name="echo", input_schema={"type": "object"})
                    connection = self.open(echo, call_tool=self._call)
                    await connection.closed.wait()
                    await connection.calls.wait_idle()
                    return
        finally:
            with anyio.CancelScope(shield=True):
                await world.take_time()
            running.remove(self)
        raise ConnectError("It is not there.", server_id=self.server_id, attempt=self.attempt.number)

    async def _call(self, *_arguments: Any, **_options: Any) -> CallToolResult:
        await anyio.lowlevel.checkpoint()
        await self.world.take_time()
        return CallToolResult(content=[])


class RealWorld:
    """An in-process server for each protocol, and one that is a separate process."""

    def __init__(self, directory: Path) -> None:
        self.servers = {"a": calculator(), "b": calculator()}
        self.pids = directory / "pids"

    def spec(self, server_id: str, *, other: bool = False) -> ServerConfig:
        policy = RestartPolicy(initial_delay=0.01)
        if server_id == "c":
            more = ["--tools", "more"] if other else []
            return scripted("--modern", *more, "--pid-file", self.pids, restart=policy)
        mode = "legacy" if (server_id == "b") is not other else "auto"
        return InProcessServer(self.servers[server_id], mode=mode, restart=policy)

    def instances(self, server_id: str) -> list[int]:
        return alive(self.pids) if server_id == "c" else []

    def crash(self, server_id: str) -> None:
        for pid in self.instances(server_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def set_broken(self, server_id: str, *, broken: bool) -> None:
        """It cannot be broken; killing it is enough."""
        if broken:
            self.crash(server_id)


@attrs.define
class Player:
    """Carries out a program on a pool and checks after every step whether everything agrees."""

    pool: MCPPool
    world: World
    running: list[anyio.CancelScope] = attrs.field(factory=list)
    """The running operations, oldest first."""
    statuses: dict[str, ConnectionStatus] = attrs.field(factory=dict)
    """The state according to the events so far."""
    left: bool = False
    """Whether the block has been left, so that every operation raises `PoolClosed`."""

    async def play(self, program: Sequence[Sequence[Operation]]) -> None:
        """Carry out all tasks concurrently."""
        async with self.pool.events() as events, anyio.create_task_group() as group:
            for number, steps in enumerate(program):
                group.start_soon(self._play_task, steps, events, name=f"program {number}")
        if not self.left:
            self.check(events)

    async def _play_task(self, steps: Sequence[Operation], events: Any) -> None:
        for step in steps:
            try:
                await self._carry_out(step)
            except PoolClosed:
                assert self.left
            if self.left:
                return
            self.check(events)

    async def _carry_out(self, step: Operation) -> None:
        if step.name == "cancel":
            if self.running:
                self.running[step.number % len(self.running)].cancel()
            return
        scope = anyio.CancelScope()
        self.running.append(scope)
        try:
            with scope:
                await getattr(self, "_" + step.name.replace(" ", "_"))(step.server_id, step.number)
        except DOCUMENTED[step.name]:
            pass
        except MCPError as error:
            raise AssertionError("an MCP error that no server sent") from error
        finally:
            self.running.remove(scope)

    async def _connect(self, server_id: str, _number: int) -> None:
        assert await self.pool.connect(server_id, self.world.spec(server_id)) is True

    async def _connect_otherwise(self, server_id: str, _number: int) -> None:
        assert await self.pool.connect(server_id, self.world.spec(server_id, other=True)) is True

    async def _add(self, server_id: str, _number: int) -> None:
        self.pool.add(server_id, self.world.spec(server_id))

    async def _disconnect(self, server_id: str, number: int) -> None:
        before = list(self.world.instances(server_id))
        is_current = server_id in self.pool.servers
        assert await self.pool.disconnect(server_id, drain=number / 1000) is is_current
        if is_current:
            assert not [one for one in before if one in self.world.instances(server_id)]

    async def _close_all(self, _server_id: str, number: int) -> None:
        before = {server_id: list(self.world.instances(server_id)) for server_id in IDS}
        await self.pool.close_all(drain=number / 1000)
        for server_id, running in before.items():
            assert not [one for one in running if one in self.world.instances(server_id)]

    async def _restart(self, server_id: str, _number: int) -> None:
        await self.pool.server(server_id).restart()

    async def _call(self, server_id: str, number: int) -> None:
        timeout = None if number < 8 else 60.0
        await self.pool.call_tool(f"{server_id}__echo", {"text": "hello"}, timeout=timeout)

    async def _wait_ready(self, server_id: str, number: int) -> None:
        await self.pool.wait_ready(*([server_id] if number < 8 else []), timeout=0.05)

    async def _crash(self, server_id: str, _number: int) -> None:
        self.world.crash(server_id)

    async def _break(self, server_id: str, _number: int) -> None:
        self.world.set_broken(server_id, broken=True)

    async def _repair(self, server_id: str, _number: int) -> None:
        self.world.set_broken(server_id, broken=False)

    async def _checkpoint(self, _server_id: str, number: int) -> None:
        for _ in range(number):
            await anyio.lowlevel.checkpoint()

    def check(self, events: Any) -> None:
        """Fail unless statuses, handles, snapshot, counts, catalog and events agree, and no server runs twice."""
        pool, snapshot, statuses = self.pool, self.pool.snapshot(), self.pool.get_all_statuses()
        current = {server_id: server.status for server_id, server in pool.servers.items()}
        assert current == {server_id: server.status for server_id, server in snapshot.servers.items()}
        assert current.items() <= statuses.items()
        for server_id, status in statuses.items():
            assert pool.get_status(server_id) is status
            assert server_id in current or status in (ConnectionStatus.DISCONNECTED, ConnectionStatus.ERROR)
        connected = {server_id for server_id, status in current.items() if status is ConnectionStatus.CONNECTED}
        assert pool.connected_count == snapshot.connected == len(connected)
        self._check_states(connected)
        for server_id in IDS:
            assert len(self.world.instances(server_id)) <= 1, f"{server_id} is running twice"
        self._check_events(events)
        assert self.statuses == current

    def _check_states(self, connected: set[str]) -> None:
        for server_id, server in self.pool.servers.items():
            state = server.state
            assert isinstance(state, Ready) == (server_id in connected)
            if isinstance(state, Ready):
                connection = connection_of(self.pool, server_id)
                assert connection.channel.disconnect_cause is None, "shown as connected although known to be lost"
                assert not connection.closed.is_set()
            offered = [entry for entry in self.pool.tools.values() if entry.server_id == server_id]
            assert all(entry.stale is (server_id not in connected) for entry in offered)
            assert bool(offered) == (server.generation > 0 and not isinstance(state, Failed))
        assert {entry.server_id for entry in self.pool.tools.values()} <= set(self.pool.servers)

    def _check_events(self, events: Any) -> None:
        while events._queue.waiting:
            event = events._queue.waiting.popleft()
            if isinstance(event, ServerAdded):
                assert event.server_id not in self.statuses
                self.statuses[event.server_id] = ConnectionStatus.CONNECTING
            elif isinstance(event, StatusChanged):
                assert event.server_id in self.statuses
                self.statuses[event.server_id] = event.status
            elif isinstance(event, ServerRemoved):
                del self.statuses[event.server_id]
            elif isinstance(event, PoolCleared):
                self.statuses.clear()
