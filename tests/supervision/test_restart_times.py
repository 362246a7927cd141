"""When a server reconnects: hours of failures in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.clock import virtual_backends
from helpers.fake import FAKE, Life, fake_wire
from mcp_pool import BackingOff, ConnectError, ConnectionLost, Failed, MCPPool, RestartPolicy, StdioServer

if TYPE_CHECKING:
    from loguru import Message

HOUR = 3600.0
DAY = 24 * HOUR
EXACT = RestartPolicy(jitter=0)
DOUBLING = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def test_failed_attempts_are_retried_after_waits_that_double_up_to_max_delay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool(restart=EXACT) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(250)
    assert wire.waits == pytest.approx(DOUBLING)


async def test_lost_connections_are_retried_after_the_same_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=10))
    async with MCPPool(restart=EXACT) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(350)
    assert wire.waits == pytest.approx([10 + wait for wait in DOUBLING])


async def test_the_next_attempt_starts_at_next_retry_at(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    retry_times: list[float | None] = []
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        for _ in range(8):
            await anyio.wait_all_tasks_blocked()
            retry_times.append(pool.snapshot().servers["one"].next_retry_at)
            await anyio.sleep((retry_times[-1] or 0) - anyio.current_time() + 0.01)
    assert wire.times[1:] == pytest.approx(retry_times)


async def test_jitter_shortens_waits_by_up_to_its_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    policy = RestartPolicy(initial_delay=100, max_delay=100, jitter=0.5)
    async with MCPPool(restart=policy) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(DAY)
    assert all(49.9 <= wait <= 100.1 for wait in wire.waits)
    assert min(wire.waits) < 60
    assert max(wire.waits) > 90


async def test_servers_that_failed_together_do_not_reconnect_together(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool() as pool:
        for number in range(50):
            await pool.connect(str(number), FAKE)
        wire.times.clear()
        for number in range(50):
            wire.kill(str(number))
        await pool.wait_ready()
    assert len(set(wire.times)) > 25


async def test_after_a_stable_connection_the_waits_start_over(monkeypatch: pytest.MonkeyPatch) -> None:
    restless, stable = [Life(uptime=10)] * 4, Life(uptime=61)
    wire = fake_wire(monkeypatch, *restless, stable, *restless)
    async with MCPPool(restart=EXACT) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(150)
    assert wire.waits[:8] == pytest.approx([10.5, 11, 12, 14, 61.5, 11, 12, 14])


async def test_a_connection_that_was_almost_stable_resets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=59))
    async with MCPPool(restart=EXACT) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(600)
    assert wire.waits[:7] == pytest.approx([59 + wait for wait in DOUBLING[:7]])


async def test_the_handshake_does_not_count_as_stable_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(handshake=70, fails=True))
    async with MCPPool(restart=EXACT, connect_timeout=None, open_timeout=None) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(600)
    assert wire.waits[:5] == pytest.approx([70 + wait for wait in DOUBLING[:5]])


async def test_the_uptime_of_an_earlier_connection_does_not_count_for_failed_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=HOUR), Life(fails=True))
    async with MCPPool(restart=EXACT) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(HOUR + 60)
    assert wire.waits[1:6] == pytest.approx(DOUBLING[1:6])


@pytest.mark.parametrize("uptime", [0.0, 0.1, 5.0])
async def test_a_server_that_keeps_exiting_after_the_handshake_causes_few_attempts_and_few_log_lines(
    monkeypatch: pytest.MonkeyPatch, record_logs: list[Message], uptime: float
) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=uptime))
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(HOUR)
    assert 50 < len(wire.attempts) < 150
    assert len(record_logs) <= 3 * len(wire.attempts)


async def test_a_server_that_is_down_is_retried_forever_and_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        await anyio.sleep(6 * HOUR)
        assert isinstance(pool.server("one").state, BackingOff)
        assert 6 * 60 < len(wire.attempts) < 3 * 6 * 60
        assert max(wire.waits) < 60.1


async def test_reconnects_stop_at_the_next_loss_after_max_restarts_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=10))
    async with MCPPool(restart=RestartPolicy(max_restarts=3)) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(DAY)
        assert isinstance(pool.server("one").state, Failed)
        assert isinstance(pool.server("one").last_error, ConnectionLost)
    assert len(wire.attempts) == 4


async def test_a_stable_connection_in_between_allows_max_restarts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    restless = Life(uptime=10)
    wire = fake_wire(monkeypatch, restless, restless, Life(uptime=61), restless)
    async with MCPPool(restart=RestartPolicy(max_restarts=2)) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(DAY)
        assert isinstance(pool.server("one").state, Failed)
    assert len(wire.attempts) == 5


@pytest.mark.parametrize("life", [Life(uptime=10), Life(uptime=HOUR), Life(fails=True)])
async def test_with_the_policy_never_reconnects_stop_at_the_first_loss(
    monkeypatch: pytest.MonkeyPatch, life: Life
) -> None:
    wire = fake_wire(monkeypatch, life)
    async with MCPPool(restart=RestartPolicy.never()) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(DAY)
        assert isinstance(pool.server("one").state, Failed)
    assert len(wire.attempts) == 1


async def test_an_error_that_no_retry_can_fix_stops_reconnects_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(is_final=True))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        await anyio.sleep(DAY)
        assert isinstance(pool.server("one").state, Failed)
    assert len(wire.attempts) == 1


async def test_an_error_that_no_retry_can_fix_stops_reconnects_on_a_later_attempt_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=10), Life(fails=True), Life(is_final=True))
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(DAY)
        assert isinstance(pool.server("one").state, Failed)
    assert len(wire.attempts) == 3


async def test_a_server_whose_connect_failed_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool() as pool:
        with pytest.raises(ConnectError):
            await pool.connect("one", FAKE)
        await anyio.sleep(DAY)
    assert len(wire.attempts) == 1


async def test_a_server_follows_its_own_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    own = RestartPolicy(initial_delay=7, multiplier=1, jitter=0)
    async with MCPPool(restart=RestartPolicy.never()) as pool:
        pool.add("one", StdioServer("never-run", restart=own))
        await anyio.sleep(22)
    assert wire.waits == pytest.approx([7, 7, 7])


async def test_a_server_that_asks_for_a_longer_wait_gets_it_up_to_max_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Life(fails=True, retry_after=seconds) for seconds in (20, 0.1, None, 61, 20)]
    wire = fake_wire(monkeypatch, *asked, Life(fails=True))
    async with MCPPool(restart=EXACT) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(125)
    assert wire.waits == pytest.approx([20, 1, 2, 60, 20, 16])


@pytest.mark.parametrize("life", [Life(fails=True), Life(uptime=10)])
@pytest.mark.parametrize("after", [0.0, 0.5, 10.0, 10.5, 11.0])
async def test_a_removed_server_is_never_revived(monkeypatch: pytest.MonkeyPatch, life: Life, after: float) -> None:
    """Removed at the very moment of an attempt, of a loss, or in between."""
    wire = fake_wire(monkeypatch, life)
    async with MCPPool(restart=EXACT) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(after)
        await pool.disconnect("one")
        attempts = len(wire.attempts)
        await anyio.sleep(DAY)
        assert len(wire.attempts) == attempts
        assert wire.open == []


async def test_close_all_stops_all_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool() as pool:
        for number in range(10):
            pool.add(str(number), FAKE)
        await anyio.sleep(100)
        await pool.close_all()
        attempts = len(wire.attempts)
        await anyio.sleep(DAY)
        assert len(wire.attempts) == attempts


async def test_a_new_server_with_the_same_id_starts_with_the_shortest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(fails=True))
    async with MCPPool(restart=EXACT) as pool:
        pool.add("one", FAKE)
        await anyio.sleep(100)
        await pool.disconnect("one")
        wire.times.clear()
        pool.add("one", FAKE)
        await anyio.sleep(10)
    assert wire.waits == pytest.approx(DOUBLING[:4])


async def test_the_wait_starts_only_when_the_lost_connection_has_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new attempt waits until the old connection has closed, as `hold` checks, and is not late."""
    wire = fake_wire(monkeypatch, Life(uptime=10, closing=3))
    async with MCPPool(restart=EXACT) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(100)
    assert wire.waits[:4] == pytest.approx([13, 13, 13, 14])


async def test_a_server_that_exits_with_status_0_while_idle_reconnects_at_once_but_only_once_per_stable_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=10, exit_status=0))
    policy = RestartPolicy(initial_delay=100, max_delay=100, jitter=0, stable_after=60)
    async with MCPPool(restart=policy) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(245)
    assert wire.waits == pytest.approx([10, 110, 10, 110])


async def test_a_server_that_exits_with_another_status_while_idle_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=10, exit_status=3))
    async with MCPPool(restart=EXACT) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(40)
    assert wire.waits == pytest.approx([10.5, 11, 12])


async def test_max_restarts_counts_reconnects_after_an_exit_while_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch, Life(uptime=10, exit_status=0))
    async with MCPPool(restart=RestartPolicy(max_restarts=1, stable_after=60)) as pool:
        await pool.connect("one", FAKE)
        await anyio.sleep(25)
        assert isinstance(pool.server("one").state, Failed)
    assert wire.waits == pytest.approx([10])
