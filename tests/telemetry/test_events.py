"""Events: in order, bounded, for any number of readers, and consistent with the statuses."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import scripted
from mcp_pool import (
    CatalogChanged,
    ConnectError,
    ConnectionLost,
    ConnectionStatus,
    Event,
    EventsDropped,
    InProcessServer,
    MCPPool,
    PoolCleared,
    PoolClosed,
    RestartPolicy,
    ServerAdded,
    ServerRemoved,
    StatusChanged,
)
from mcp_pool.supervision.events import BUFFER
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECTING, CONNECTED, ERROR, DISCONNECTED = (
    ConnectionStatus.CONNECTING,
    ConnectionStatus.CONNECTED,
    ConnectionStatus.ERROR,
    ConnectionStatus.DISCONNECTED,
)
AT_ONCE = RestartPolicy(initial_delay=0)
CHANGE = StatusChanged("s", CONNECTED, 1)
"""An event for tests in which it does not matter which."""


async def next_events(events: AsyncIterator[Event], count: int) -> list[Event]:
    """Return the next `count` events."""
    with anyio.fail_after(20):
        return [await anext(events) for _ in range(count)]


async def the_rest(events: AsyncIterator[Event]) -> list[Event]:
    """Return all events until the end."""
    with anyio.fail_after(20):
        return [event async for event in events]


def send(pool: MCPPool, event: Event, times: int = 1) -> None:
    """Send the same event many times."""
    for _ in range(times):
        pool._supervisor.broadcast.send(event)


# What the events are, and their order


async def test_each_step_of_a_servers_life_is_an_event() -> None:
    async with MCPPool() as pool, pool.events() as events:
        await pool.connect("s", InProcessServer(calculator()))
        tools = tuple(pool.tools.values())
        await pool.disconnect("s")
        assert await next_events(events, 6) == [
            ServerAdded("s"),
            CatalogChanged("s", added=tools),
            StatusChanged("s", CONNECTED, 1),
            StatusChanged("s", DISCONNECTED, 1),
            CatalogChanged("s", removed=tools),
            ServerRemoved("s"),
        ]


async def test_the_removal_of_a_server_that_could_not_be_connected_has_its_error() -> None:
    async with MCPPool() as pool, pool.events() as events:
        with pytest.raises(ConnectError) as caught:
            await pool.connect("s", scripted("--exit-at-start", 3))
        added, changed, removed = await next_events(events, 3)
    assert added == ServerAdded("s")
    assert isinstance(changed, StatusChanged)
    assert isinstance(removed, ServerRemoved)
    assert (changed.status, changed.generation) == (ERROR, 0)
    assert str(changed.error) == str(removed.error) == str(caught.value)


async def test_the_events_of_a_reconnect_have_generations() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", scripted(restart=AT_ONCE))
        async with pool.events() as events:
            with pytest.raises(ConnectionLost):
                await pool.call_tool("s__crash")
            lost, explained, connecting, back = await next_events(events, 4)
    for news in (lost, explained):
        assert isinstance(news, StatusChanged)
        assert (news.status, news.generation) == (ERROR, 1)
        assert isinstance(news.error, ConnectionLost)
    assert [connecting, back] == [StatusChanged("s", CONNECTING, 1), StatusChanged("s", CONNECTED, 2)]


async def test_an_unchanged_listing_is_not_an_event() -> None:
    server = calculator()
    async with MCPPool({"s": InProcessServer(server)}) as pool, pool.events() as events:
        await pool.server("s").refresh()
        fail = pool.tools["s__fail"]
        server.remove_tool("fail")
        await pool.server("s").refresh()
        await pool.disconnect("s")
        first = (await next_events(events, 2))[:2]
    assert first == [CatalogChanged("s", removed=(fail,)), StatusChanged("s", DISCONNECTED, 1)]


async def test_close_all_is_one_event() -> None:
    async with MCPPool() as pool:
        for server_id in ("a", "b", "c"):
            await pool.connect(server_id, InProcessServer(calculator()))
        async with pool.events() as events:
            await pool.close_all()
            pool.add("a", InProcessServer(calculator()))
            assert await next_events(events, 2) == [PoolCleared(), ServerAdded("a")]


async def test_a_reader_gets_only_events_after_it_subscribed() -> None:
    async with MCPPool({"a": InProcessServer(calculator())}) as pool, pool.events() as events:
        await pool.connect("b", InProcessServer(calculator()))
        assert await next_events(events, 1) == [ServerAdded("b")]


# Readers


async def test_all_readers_get_all_events() -> None:
    async with MCPPool() as pool, pool.events() as one, pool.events() as other:
        await pool.connect("s", InProcessServer(calculator()))
        await pool.disconnect("s")
        assert await next_events(one, 5) == await next_events(other, 5)


async def test_a_reader_that_has_left_is_forgotten() -> None:
    async with MCPPool() as pool:
        async with pool.events():
            assert len(pool._supervisor.broadcast._queues) == 1
        assert len(pool._supervisor.broadcast._queues) == 0


async def test_a_reader_that_raises_is_forgotten() -> None:
    async with MCPPool() as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.events():
                raise ZeroDivisionError
        assert len(pool._supervisor.broadcast._queues) == 0


async def test_a_reader_waits_for_the_next_event() -> None:
    async with MCPPool() as pool, pool.events() as events, anyio.create_task_group() as group:
        received: list[Event] = []

        async def listen() -> None:
            received.extend(await next_events(events, 1))

        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        assert received == []
        send(pool, CHANGE)
    assert received == [CHANGE]


async def test_a_reader_that_never_reads_delays_nobody() -> None:
    async with MCPPool() as pool, pool.events():
        with anyio.fail_after(20):
            for _ in range(50):
                await pool.connect("s", InProcessServer(calculator()))
                await pool.disconnect("s")


async def test_a_cancelled_reader_can_read_again() -> None:
    async with MCPPool() as pool, pool.events() as events:
        with anyio.move_on_after(0.01):
            await anext(events)
        send(pool, CHANGE)
        assert await next_events(events, 1) == [CHANGE]


async def test_a_reader_with_many_events_waiting_lets_other_tasks_run() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with MCPPool() as pool, pool.events() as events, anyio.create_task_group() as group:
        send(pool, CHANGE, 100)
        group.start_soon(count_turns)
        await next_events(events, 100)
        group.cancel_scope.cancel()
    assert turns > 50


# The limit of the buffer


async def test_a_full_buffer_is_delivered_completely() -> None:
    async with MCPPool() as pool, pool.events() as events:
        send(pool, CHANGE, BUFFER)
        assert await next_events(events, BUFFER) == [CHANGE] * BUFFER


async def test_a_reader_that_is_too_slow_loses_the_oldest_events_and_is_told_how_many() -> None:
    async with MCPPool() as pool, pool.events() as events:
        send(pool, ServerAdded("old"), 7)
        send(pool, CHANGE, BUFFER)
        assert await next_events(events, BUFFER + 1) == [EventsDropped(7), *[CHANGE] * BUFFER]


async def test_each_gap_is_reported_where_it_occurs() -> None:
    async with MCPPool() as pool, pool.events() as events:
        send(pool, CHANGE, BUFFER + 3)
        assert await next_events(events, 2) == [EventsDropped(3), CHANGE]
        send(pool, ServerAdded("new"), 5)
        assert (await next_events(events, 1)) == [EventsDropped(4)]


async def test_the_buffer_of_a_reader_that_never_reads_is_bounded() -> None:
    async with MCPPool() as pool, pool.events() as events:
        send(pool, CHANGE, 100 * BUFFER)
        assert len(events._queue.waiting) == BUFFER


async def test_a_slow_reader_does_not_cost_a_fast_one_any_events() -> None:
    async with MCPPool() as pool, pool.events(), pool.events() as quick:
        for _ in range(3):
            send(pool, CHANGE, BUFFER)
            assert await next_events(quick, BUFFER) == [CHANGE] * BUFFER


# The end


async def test_the_events_end_with_the_block() -> None:
    received: list[Event] = []

    async def listen() -> None:
        async with pool.events() as events:
            listening.set()
            received.extend(await the_rest(events))

    listening = anyio.Event()
    async with anyio.create_task_group() as group, MCPPool() as pool:
        group.start_soon(listen)
        await listening.wait()
        await pool.connect("s", InProcessServer(calculator()))
        tools = tuple(pool.tools.values())
    assert received[:3] == [ServerAdded("s"), CatalogChanged("s", added=tools), StatusChanged("s", CONNECTED, 1)]


async def test_events_from_before_the_end_are_delivered_after_it() -> None:
    async with AsyncExitStack() as stack:
        async with MCPPool() as pool:
            events = await stack.enter_async_context(pool.events())
            send(pool, CHANGE, 3)
        assert (await the_rest(events))[:3] == [CHANGE] * 3


async def test_a_stream_that_has_ended_stays_ended() -> None:
    async with AsyncExitStack() as stack:
        async with MCPPool() as pool:
            events = await stack.enter_async_context(pool.events())
        await the_rest(events)
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_the_events_also_end_with_their_own_block() -> None:
    async with MCPPool() as pool:
        async with pool.events() as events:
            pass
        send(pool, CHANGE)
        assert await the_rest(events) == []


async def test_a_closed_pool_has_no_events() -> None:
    pool = MCPPool()
    async with pool:
        pass
    with pytest.raises(PoolClosed):
        async with pool.events():
            pass


async def test_a_stream_opened_before_the_block_sees_its_opening() -> None:
    pool = MCPPool({"s": InProcessServer(calculator())})
    async with pool.events() as events:
        async with pool:
            tools = tuple(pool.tools.values())
        seen = await the_rest(events)
    assert seen[:3] == [ServerAdded("s"), CatalogChanged("s", added=tools), StatusChanged("s", CONNECTED, 1)]


async def test_a_status_change_has_the_state_behind_it() -> None:
    async with MCPPool() as pool, pool.events() as events:
        await pool.connect("s", InProcessServer(calculator()))
        changed = [await anext(events) for _ in range(3)][-1]
        assert isinstance(changed, StatusChanged)
        assert changed.state is pool.server("s").state
