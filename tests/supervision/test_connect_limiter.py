"""How many servers connect at once (`max_connecting`), with a virtual clock."""

from __future__ import annotations

import random
from contextlib import suppress

import anyio
import pytest

from helpers.clock import virtual_backends
from helpers.fake import FAKE, Life, fake_wire, most_at_once, start_times, wire_of
from mcp_pool import (
    ConnectError,
    ConnectionStatus,
    ConnectTimeout,
    MCPPool,
    RestartPolicy,
    StdioServer,
)
from mcp_pool.supervision.connect_limiter import SLOT_TIME, ConnectLimiter

HANGS = 1e6
"""Seconds: longer than anything waits for a handshake."""
EXACT = RestartPolicy(jitter=0.0)


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.mark.parametrize(("slots", "servers"), [(1, 20), (3, 50), (16, 200), (500, 200)])
async def test_no_more_than_max_connecting_servers_connect_at_once_and_all_of_them_connect(
    monkeypatch: pytest.MonkeyPatch, slots: int, servers: int
) -> None:
    wire, handshake = fake_wire(monkeypatch, Life(handshake=0.4)), 0.4
    async with MCPPool(max_connecting=slots) as pool:
        start = anyio.current_time()
        for number in range(servers):
            pool.add(str(number), FAKE)
        await pool.wait_ready(timeout=None)
        assert most_at_once(wire.times, handshake) == min(slots, servers)
        assert anyio.current_time() - start == pytest.approx(-(-servers // slots) * handshake)
        assert pool.connected_count == servers
        assert len(wire.attempts) == servers


async def test_sixteen_servers_connect_at_once_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=0.5))
    async with MCPPool({str(number): FAKE for number in range(40)}) as pool:
        assert pool.connected_count == 40
    assert most_at_once(wire.times, 0.5) == 16


async def test_servers_connect_in_the_order_in_which_they_were_added(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=0.1))
    ids = [str(number) for number in range(30)]
    async with MCPPool(max_connecting=2) as pool:
        for server_id in ids[:20]:
            pool.add(server_id, FAKE)
        await anyio.sleep(0.25)
        for server_id in ids[20:]:
            pool.add(server_id, FAKE)
        await pool.wait_ready()
    order = [int(attempt.target.server_id) for attempt in wire.attempts]
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))  # two start at the same moment


async def test_an_attempt_that_hangs_holds_its_slot_only_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = [f"hung {number}" for number in range(4)]
    wire = wire_of(monkeypatch, dict.fromkeys(hung, Life(handshake=HANGS)), Life(handshake=0.1))
    async with MCPPool(max_connecting=2) as pool:
        start = anyio.current_time()
        for server_id in [*hung, *map(str, range(10))]:
            pool.add(server_id, FAKE)
        await pool.wait_ready(*map(str, range(10)))
        assert anyio.current_time() - start == pytest.approx(2 * SLOT_TIME + 5 * 0.1)
        assert all(pool.get_status(server_id) is ConnectionStatus.CONNECTING for server_id in hung)
        times = start_times(wire)
        assert [times[server_id] - start for server_id in hung] == pytest.approx([0, 0, SLOT_TIME, SLOT_TIME])


async def test_servers_that_all_hang_do_not_block_the_others_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = wire_of(monkeypatch, {"last": Life(handshake=0.1)}, Life(handshake=HANGS))
    async with MCPPool(max_connecting=10) as pool:
        start = anyio.current_time()
        for number in range(100):
            pool.add(str(number), FAKE)
        pool.add("last", FAKE)
        await pool.wait_ready("last", timeout=None)
        assert anyio.current_time() - start == pytest.approx(10 * SLOT_TIME + 0.1)
    assert most_at_once(wire.times, SLOT_TIME) == 10


async def test_an_attempt_that_fails_releases_its_slot_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wire_of(monkeypatch, {"good": Life(handshake=0.1)}, Life(handshake=0.2, fails=True))
    async with MCPPool(max_connecting=1, restart=RestartPolicy.never()) as pool:
        start = anyio.current_time()
        for number in range(5):
            pool.add(str(number), FAKE)
        await pool.connect("good", FAKE)
        assert anyio.current_time() - start == pytest.approx(5 * 0.2 + 0.1)


@pytest.mark.parametrize("end", ["disconnect", "cancelled connect"])
async def test_an_attempt_that_is_cancelled_releases_its_slot_at_once(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    wire = wire_of(monkeypatch, {"hung": Life(handshake=HANGS)}, Life())
    async with MCPPool(max_connecting=1) as pool, anyio.create_task_group() as group:
        start = anyio.current_time()
        scope = anyio.CancelScope()

        async def connect() -> None:
            with scope, suppress(ConnectError):
                await pool.connect("hung", FAKE)

        group.start_soon(connect)
        await anyio.sleep(0.1)
        pool.add("next", FAKE)
        await anyio.sleep(0.2)
        assert "next" not in start_times(wire)
        if end == "disconnect":
            await pool.disconnect("hung")
        else:
            scope.cancel()
        await pool.wait_ready("next")
        assert start_times(wire)["next"] - start == pytest.approx(0.3)


async def test_an_attempt_cancelled_while_it_waits_for_a_slot_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wire_of(monkeypatch, {"first": Life(handshake=0.5)}, Life(handshake=0.1))
    async with MCPPool(max_connecting=1) as pool:
        start = anyio.current_time()
        for server_id in ("first", "leaves", "stays", "also leaves", "last"):
            pool.add(server_id, FAKE)
        await anyio.sleep(0.2)
        assert await pool.disconnect("leaves")
        assert await pool.disconnect("also leaves")
        assert anyio.current_time() - start == pytest.approx(0.2)
        await pool.wait_ready()
        assert {key: time - start for key, time in start_times(wire).items()} == pytest.approx(
            {"first": 0.0, "stays": 0.5, "last": 0.6}
        )


async def test_close_all_does_not_wait_for_slots_and_releases_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = wire_of(monkeypatch, {"new": Life(handshake=0.1)}, Life(handshake=HANGS))
    async with MCPPool(max_connecting=3) as pool:
        for number in range(50):
            pool.add(str(number), FAKE)
        await anyio.sleep(0.1)
        start = anyio.current_time()
        await pool.close_all()
        await pool.connect("new", FAKE)
        assert anyio.current_time() - start == pytest.approx(0.1)
    assert len(wire.attempts) == 4


async def test_connections_that_are_lost_together_also_need_slots_to_reconnect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=0.3))
    ids = [str(number) for number in range(60)]
    async with MCPPool(dict.fromkeys(ids, FAKE), max_connecting=5, restart=EXACT, open_timeout=None) as pool:
        wire.times.clear()
        for server_id in ids:
            wire.kill(server_id)
        await pool.wait_ready(timeout=None)
        assert len(wire.times) == 60
        assert most_at_once(wire.times, 0.3) == 5


@pytest.mark.parametrize("seed", range(5))
async def test_no_slot_is_lost_whatever_happens_to_attempts(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    wire = fake_wire(monkeypatch)
    wire.script = lambda _attempt: Life(
        handshake=chance.choice([0, 0.01, 0.3, 0.9, 1.5, 20]), fails=chance.random() < 0.2
    )

    async def come_and_go(number: int) -> None:
        await anyio.sleep(chance.random() * 3)
        with anyio.move_on_after(chance.choice([0, 0.05, 0.3, 2])):
            try:
                await pool.connect(str(number), FAKE)
            except ConnectError:
                return
        if chance.random() < 0.7:
            await pool.disconnect(str(number))

    async with MCPPool(max_connecting=2) as pool:
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(come_and_go, number)
        wire.script = lambda _attempt: Life(handshake=0.1)
        await pool.close_all()
        wire.forget()
        start = anyio.current_time()
        for number in range(6):
            pool.add(f"after {number}", FAKE)
        await pool.wait_ready()
        assert anyio.current_time() - start == pytest.approx(0.3)
        assert most_at_once(wire.times, 0.1) == 2


async def test_releasing_a_slot_twice_does_not_release_another() -> None:
    limiter = ConnectLimiter(1, {})
    first = limiter.enter(None)
    limiter.release(first)
    second = limiter.enter(None)
    limiter.release(first)
    third = limiter.enter(None)
    assert not third.taken.is_set()
    limiter.release(second)
    assert third.taken.is_set()


async def test_connect_timeout_includes_the_wait_for_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = [f"hung {number}" for number in range(4)]
    wire = wire_of(monkeypatch, dict.fromkeys(hung, Life(handshake=HANGS)), Life())
    async with MCPPool(max_connecting=1) as pool:
        start = anyio.current_time()
        for server_id in hung:
            pool.add(server_id, FAKE)
        with pytest.raises(
            ConnectTimeout, match="no connect slot within connect_timeout=2 s: all slots of max_conn"
        ) as caught:
            await pool.connect("late", StdioServer("never-run", connect_timeout=2))
        assert anyio.current_time() - start == pytest.approx(2)
        assert (caught.value.attempt, caught.value.phase, caught.value.retryable) == (1, "spawn", True)
        assert "late" not in [attempt.target.server_id for attempt in wire.attempts]
        assert await pool.connect("late", StdioServer("never-run", connect_timeout=None))
