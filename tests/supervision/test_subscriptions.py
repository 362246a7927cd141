"""Subscriptions to resources: updates, reconnects, refusals, slow readers, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp_types import ResourceUpdatedNotification, ResourceUpdatedNotificationParams

from helpers.common import connection_of, eventually, row_of
from mcp_pool import (
    CallTimeout,
    ConfigError,
    InProcessServer,
    InvalidResponse,
    MCPPool,
    ResourceUpdate,
    RestartPolicy,
    ServerUnavailable,
)
from mcp_pool.supervision.subscriptions import MAX_PENDING, Feed
from mcp_pool.transports.channel import DisconnectCause
from servers.shelves import FORBIDDEN, SHELF, Shelves

if TYPE_CHECKING:
    from mcp_pool import Subscription

pytestmark = pytest.mark.parametrize("mode", ["auto", "legacy"], ids=["modern", "legacy"])


def update(uri: str = SHELF, *, missed: bool = False) -> ResourceUpdate:
    """An update from the server of these tests."""
    return ResourceUpdate("s", uri, may_have_missed=missed)


async def following(subscription: Subscription) -> ResourceUpdate:
    """The next update, which must come soon."""
    with anyio.fail_after(60):
        return await anext(subscription)


async def test_updates_of_a_resource_and_what_is_below_it_arrive_in_order_and_once(mode: str) -> None:
    shelves = Shelves()
    async with MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool:
        async with pool.subscribe("s", SHELF) as subscription:
            assert (subscription.server_id, subscription.uri) == ("s", SHELF)
            assert repr(subscription) == "<Subscription to a resource of server 's'>"
            await shelves.touch("shelf://other")
            await shelves.touch(SHELF)
            assert await following(subscription) == update()
            if mode == "legacy":  # the SDK's own server does not deliver what is below, in the modern protocol
                await shelves.touch(f"{SHELF}/book")
                assert await following(subscription) == update(f"{SHELF}/book")
            for _ in range(3):
                await shelves.touch(SHELF)
            await anyio.wait_all_tasks_blocked()
            assert await following(subscription) == update()
            with anyio.move_on_after(0.05) as nothing_more:
                await anext(subscription)
            assert nothing_more.cancelled_caught
        await eventually(lambda: not shelves.subscribed)


async def test_two_subscriptions_to_a_resource_are_one_for_the_server_until_both_have_ended(mode: str) -> None:
    shelves = Shelves()
    async with MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool:
        async with pool.subscribe("s", SHELF) as one:
            async with pool.server("s").subscribe(SHELF) as other:
                await shelves.touch(SHELF)
                assert await following(one) == await following(other) == update()
            await anyio.wait_all_tasks_blocked()
            assert shelves.subscribed == [SHELF]
            await shelves.touch(SHELF)
            assert await following(one) == update()
        await eventually(lambda: not shelves.subscribed)


async def test_a_subscription_survives_reconnects_and_replacement_and_says_that_it_may_have_missed_updates(
    mode: str,
) -> None:
    shelves, successor = Shelves(), Shelves()
    async with (
        MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool,
        pool.subscribe("s", SHELF) as subscription,
    ):
        await pool.server("s").restart()
        assert await following(subscription) == update(missed=True)
        shelves.sessions = shelves.sessions[-1:]
        await shelves.touch(SHELF)
        assert await following(subscription) == update()
        await pool.replace("s", InProcessServer(successor.server, mode=mode))
        assert await following(subscription) == update(missed=True)
        await successor.touch(SHELF)
        assert await following(subscription) == update()


async def test_a_refused_subscription_raises_the_servers_error_and_harms_no_other(mode: str) -> None:
    shelves = Shelves()
    async with (
        MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool,
        pool.subscribe("s", SHELF) as subscription,
    ):
        with pytest.raises(MCPError, match="nobody may know"):
            async with pool.subscribe("s", FORBIDDEN):
                pass
        await shelves.touch(SHELF)
        assert await following(subscription) == update()


async def test_a_server_that_does_not_send_updates_of_a_resource_is_an_error(mode: str) -> None:
    spec = InProcessServer(Shelves(selective=True).server, mode=mode)
    async with MCPPool({"s": spec}) as pool:
        with pytest.raises(InvalidResponse if mode == "auto" else MCPError):
            async with pool.subscribe("s", SHELF):
                pass


async def test_an_update_comes_by_one_way_only(mode: str) -> None:
    """The SDK shows the notifications on a stream of the modern protocol also to the handler of messages."""
    async with (
        MCPPool({"s": InProcessServer(Shelves().server, mode=mode)}) as pool,
        pool.subscribe("s", SHELF) as updates,
    ):
        shown = ResourceUpdatedNotification(params=ResourceUpdatedNotificationParams(uri=SHELF))
        connection_of(pool, "s").dispatcher.updates.note_message(shown)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.05) as nothing:
            await anext(updates)
        assert nothing.cancelled_caught == (mode == "auto")


async def test_whatever_else_a_server_tells_on_its_stream_is_no_update(mode: str) -> None:
    shelves = Shelves(generous=True)
    async with (
        MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool,
        pool.subscribe("s", SHELF) as subscription,
    ):
        await shelves.touch(SHELF)
        with anyio.fail_after(60):
            async for received in subscription:
                assert received == update()
                break


async def test_a_subscription_is_made_on_the_next_connection_if_one_is_lost_before_it_was_confirmed(mode: str) -> None:
    shelves = Shelves(silent=True)
    async with MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool:
        received: list[ResourceUpdate] = []

        async def subscribe() -> None:
            async with pool.subscribe("s", SHELF) as subscription:
                received.append(await following(subscription))

        async with anyio.create_task_group() as group:
            group.start_soon(subscribe)
            await anyio.wait_all_tasks_blocked()
            shelves.silent = False
            await pool.server("s").restart()
            await eventually(lambda: shelves.subscribed)
            await anyio.wait_all_tasks_blocked()
            await shelves.touch(SHELF)
        assert received == [update()]


async def test_a_loss_at_the_moment_of_subscribing_is_no_refusal(mode: str) -> None:
    spec = InProcessServer(Shelves().server, mode=mode, restart=RestartPolicy(initial_delay=0))
    async with MCPPool({"s": spec}) as pool:
        with row_of(pool, "s").subscriptions.opened("s", SHELF) as feed:
            connection_of(pool, "s").channel.mark_lost(DisconnectCause("fell over"))
            with anyio.fail_after(60):
                await feed.changed.until(lambda: feed.is_confirmed or feed.end)
            assert (feed.is_confirmed, feed.end) == (True, None)


async def test_a_subscription_that_is_not_confirmed_times_out(mode: str) -> None:
    spec = InProcessServer(Shelves(silent=True).server, mode=mode, call_timeout=0.1)
    async with MCPPool({"s": spec}) as pool:
        with pytest.raises(CallTimeout):
            async with pool.subscribe("s", SHELF):
                pass


async def test_a_subscription_ends_when_its_server_leaves_after_what_has_not_been_read(mode: str) -> None:
    shelves = Shelves()
    async with (
        MCPPool({"s": InProcessServer(shelves.server, mode=mode)}) as pool,
        pool.subscribe("s", SHELF) as subscription,
    ):
        await shelves.touch(SHELF)
        await anyio.wait_all_tasks_blocked()
        await pool.disconnect("s")
        assert await following(subscription) == update()
        with pytest.raises(ServerUnavailable, match="was disconnected"):
            await following(subscription)
        with pytest.raises(ServerUnavailable):
            await following(subscription)


async def test_a_connection_that_is_lost_while_a_subscription_is_confirmed_does_not_end_it(mode: str) -> None:
    shelves = Shelves(silent=True)
    spec = InProcessServer(shelves.server, mode=mode, restart=RestartPolicy(initial_delay=0))
    async with MCPPool({"s": spec}) as pool, anyio.create_task_group() as group:
        received = list[ResourceUpdate]()

        async def follow() -> None:
            async with pool.subscribe("s", SHELF) as subscription:
                async for received_update in subscription:
                    received.append(received_update)
                    return

        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        shelves.silent = False
        connection_of(pool, "s").channel.mark_lost(DisconnectCause("fell over"))
        await eventually(lambda: shelves.subscribed)
        await anyio.wait_all_tasks_blocked()
        await shelves.touch(SHELF)
        await eventually(lambda: received)
        assert received == [update()]


async def test_a_subscription_ends_when_automatic_reconnects_stop(mode: str) -> None:
    spec = InProcessServer(Shelves().server, mode=mode, restart=RestartPolicy.never())
    async with MCPPool({"s": spec}) as pool:
        async with pool.subscribe("s", SHELF) as subscription:
            connection_of(pool, "s").channel.mark_lost(DisconnectCause("fell over"))
            with pytest.raises(ServerUnavailable, match="automatic reconnects have stopped"):
                await following(subscription)
        with pytest.raises(ServerUnavailable):
            async with pool.subscribe("s", SHELF):
                pass


async def test_a_reader_that_is_too_slow_is_told_that_it_may_have_missed_updates(mode: str) -> None:
    feed = Feed("s", SHELF)
    for number in range(MAX_PENDING + 1):
        feed.put(f"{SHELF}/{number}")
    assert await feed.receive() == update(f"{SHELF}/0", missed=True)
    assert await feed.receive() == update(f"{SHELF}/1")


async def test_a_uri_that_is_not_a_string_is_an_error_before_anything_is_sent(mode: str) -> None:
    wrong: Any = 5
    async with MCPPool({"s": InProcessServer(Shelves().server, mode=mode)}) as pool:
        with pytest.raises(ConfigError, match="uri must be a string"):
            pool.subscribe("s", wrong)
