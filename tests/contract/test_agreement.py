"""P11: events, statuses, counts and catalog agree whenever a task can look.

A watcher looks in every iteration of the event loop. It keeps its own picture of the pool, based only on the events,
and compares it with what the pool shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from helpers.common import eventually, scripted
from mcp_pool import (
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Event,
    InProcessServer,
    MCPPool,
    PoolCleared,
    RestartPolicy,
    ServerAdded,
    ServerRemoved,
    StatusChanged,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp_pool import EventStream

AT_ONCE = RestartPolicy(initial_delay=0)


class Picture:
    """The pool according to its events."""

    def __init__(self) -> None:
        self.statuses: dict[str, ConnectionStatus] = {}
        self.current: set[str] = set()
        self.looks = 0

    def draw(self, event: Event) -> None:
        """Update the picture with an event."""
        match event:
            case ServerAdded(server_id):
                assert server_id not in self.current
                self.current.add(server_id)
                self.statuses[server_id] = ConnectionStatus.CONNECTING
            case StatusChanged(server_id, status):
                assert server_id in self.current
                self.statuses[server_id] = status
            case ServerRemoved(server_id):
                self.current.remove(server_id)
            case PoolCleared():
                self.statuses.clear()
                self.current.clear()

    def compare(self, pool: MCPPool) -> None:
        """Fail unless everything that the pool shows agrees with the picture."""
        self.looks += 1
        assert pool.get_all_statuses() == self.statuses
        assert set(pool.servers) == self.current == set(pool.snapshot().servers)
        connected = {server_id for server_id, status in self.statuses.items() if status is ConnectionStatus.CONNECTED}
        assert pool.connected_count == len(connected) == pool.snapshot().connected
        assert {entry.server_id for entry in pool.tools.values() if not entry.stale} == connected
        for server_id, server in pool.servers.items():
            assert server.status is pool.get_status(server_id) is self.statuses[server_id]
            assert (server.client is not None) == (server.info is not None)
            assert server.client is not None or server_id not in connected


@asynccontextmanager
async def watched(pool: MCPPool) -> AsyncIterator[Picture]:
    """Look in every iteration of the event loop until the block ends."""
    picture = Picture()

    def look(events: EventStream) -> None:
        while events._queue.waiting:
            picture.draw(events._queue.waiting.popleft())
        picture.compare(pool)

    async def watch(events: EventStream) -> None:
        while True:
            look(events)
            await anyio.lowlevel.checkpoint()

    async with pool.events() as events, anyio.create_task_group() as group:
        group.start_soon(watch, events)
        yield picture
        look(events)
        group.cancel_scope.cancel()


async def comes_and_goes(pool: MCPPool) -> None:
    """A well-behaved server."""
    await pool.connect("s", InProcessServer(calculator()))
    await pool.disconnect("s")


async def never_comes(pool: MCPPool) -> None:
    """A server that cannot be connected."""
    with pytest.raises(ConnectError):
        await pool.connect("s", scripted("--exit-at-start", 3))


async def crashes_and_returns(pool: MCPPool) -> None:
    """A server that exits during a call."""
    await pool.connect("s", scripted(restart=AT_ONCE))
    with pytest.raises(ConnectionLost):
        await pool.call_tool("s__crash")
    await pool.wait_ready("s")


async def is_restarted(pool: MCPPool) -> None:
    """A server that is restarted on purpose."""
    await pool.connect("s", InProcessServer(calculator()))
    await pool.server("s").restart()


async def is_failed_and_connected(pool: MCPPool) -> None:
    """A server that does not reconnect after its first loss."""
    await pool.connect("s", scripted(restart=RestartPolicy.never()))
    with pytest.raises(ConnectionLost):
        await pool.call_tool("s__crash")
    await pool.connect("s", scripted(restart=RestartPolicy.never()))


async def all_are_closed(pool: MCPPool) -> None:
    """Servers that are all ended at once, one of them slow to end, while successors are added."""
    for server_id in ("a", "b"):
        await pool.connect(server_id, InProcessServer(calculator()))
    await pool.connect("s", scripted("--stubborn", close_timeout=0.2))
    async with anyio.create_task_group() as group:
        group.start_soon(pool.close_all)
        await eventually(lambda: not pool.servers)
        pool.add("a", InProcessServer(calculator()))
    await pool.wait_ready()


async def is_replaced_while_it_closes(pool: MCPPool) -> None:
    """A server that is slow to end, and another one with the same id."""
    await pool.connect("s", scripted("--stubborn", close_timeout=0.2))
    async with anyio.create_task_group() as group:
        group.start_soon(pool.disconnect, "s")
        await eventually(lambda: pool.get_status("s") is ConnectionStatus.DISCONNECTED)
        await pool.connect("s", InProcessServer(calculator()))


async def is_cancelled_while_connecting(pool: MCPPool) -> None:
    """A connect whose caller gives up."""
    with anyio.move_on_after(0.05):
        await pool.connect("s", scripted("--never-answer", close_timeout=0.1))
    await eventually(lambda: not pool.servers)


SCENARIOS: list[Callable[[MCPPool], Awaitable[None]]] = [
    comes_and_goes,
    never_comes,
    crashes_and_returns,
    is_restarted,
    is_failed_and_connected,
    all_are_closed,
    is_replaced_while_it_closes,
    is_cancelled_while_connecting,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_statuses_catalog_events_and_counts_agree_at_every_moment(
    scenario: Callable[[MCPPool], Awaitable[None]],
) -> None:
    async with MCPPool() as pool:
        async with watched(pool) as picture:
            await scenario(pool)
        assert picture.looks > 2


async def test_everything_is_empty_after_the_block() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        pass
    Picture().compare(pool)
