"""When a silent server is probed, and when it is considered lost: hours of silence in virtual time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from mcp import MCPError
from mcp.client.session import ClientSession

from helpers.clock import virtual_backends
from helpers.fake import FAKE, FakeWire, fake_wire
from mcp_pool import ConnectionLost, ConnectionStatus, Failed, HealthCheck, InProcessServer, MCPPool, RestartPolicy
from mcp_pool.supervision.health import TICK
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcp_pool.transports.channel import Channel

HOUR = 3600.0
SOME = 5 * TICK
"""Seconds by which a probe may be late."""
EXACT = RestartPolicy(initial_delay=1.0, multiplier=1.0, jitter=0.0)
NEVER = math.inf
"""The delay of a response that never arrives."""


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@attrs.define(eq=False)
class Session:
    """A session whose server answers the n-th probe after the n-th delay, and later ones after the last delay."""

    channel: Channel
    delays: Sequence[float]
    error: Exception | None = None
    """What the SDK raises instead of returning a response; this is not activity."""
    asked: list[float] = attrs.Factory(list)
    """When it was probed."""
    discover_result: None = None

    async def send_discover(self, _version: str) -> None:
        """Answer the probe, or do not."""
        self.asked.append(anyio.current_time())
        await anyio.sleep(self.delays[min(len(self.asked), len(self.delays)) - 1])
        if self.error is not None:
            raise self.error
        self.channel.note_activity()


def silent_wire(
    monkeypatch: pytest.MonkeyPatch, *delays: float, error: Exception | None = None
) -> tuple[FakeWire, list[Session]]:
    """A fake wire whose servers are silent unless they are probed, and their sessions in the order of the attempts."""
    sessions = list[Session]()

    def session(channel: Channel) -> Session:
        sessions.append(Session(channel, delays, error))
        return sessions[-1]

    monkeypatch.setattr("helpers.fake.Answering", session)
    return fake_wire(monkeypatch), sessions


def later(times: Sequence[float]) -> list[Any]:
    """Match these times, or a little later."""
    return [pytest.approx(time + SOME / 2, abs=SOME / 2) for time in times]


async def test_a_silent_server_is_probed_after_each_interval_of_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    _, sessions = silent_wire(monkeypatch, 0)
    async with MCPPool({"s": FAKE}) as pool:
        start = anyio.current_time()
        await anyio.sleep(100)
        assert [time - start for time in sessions[0].asked] == later([30, 60, 90])
        assert pool.server("s").generation == 1


@pytest.mark.parametrize(
    "check",
    [
        HealthCheck(),
        HealthCheck(interval=5, timeout=1, failure_threshold=1),
        HealthCheck(interval=1, timeout=7, failure_threshold=4),
    ],
)
async def test_a_server_that_does_not_answer_is_lost_after_failure_threshold_probes(
    monkeypatch: pytest.MonkeyPatch, check: HealthCheck
) -> None:
    wire, sessions = silent_wire(monkeypatch, NEVER)
    async with MCPPool({"s": FAKE}, health=check, restart=EXACT) as pool:
        start, lost_after = anyio.current_time(), check.interval + check.failure_threshold * check.timeout
        await anyio.sleep(lost_after - 0.01)
        assert pool.get_status("s") is ConnectionStatus.CONNECTED
        await anyio.sleep(check.failure_threshold * SOME)
        assert pool.get_status("s") is ConnectionStatus.ERROR
        error = pool.server("s").last_error
        assert isinstance(error, ConnectionLost)
        assert f"failed {check.failure_threshold} health checks in a row ({check.timeout} s each)" in str(error)
        assert len(sessions[0].asked) == check.failure_threshold
        await pool.wait_ready("s")
        assert wire.times[-1] - start == pytest.approx(lost_after + 1, abs=check.failure_threshold * SOME)


async def test_a_new_connection_is_probed_like_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, _ = silent_wire(monkeypatch, NEVER)
    async with MCPPool({"s": FAKE}, restart=EXACT):
        await anyio.sleep(10 * (30 + 2 * 10 + 1) + 5)
    assert len(wire.attempts) == 11


async def test_any_activity_postpones_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, sessions = silent_wire(monkeypatch, 0)
    async with MCPPool({"s": FAKE}):
        start = anyio.current_time()
        await anyio.sleep(20)
        wire.channels["s"].note_activity()
        await anyio.sleep(40)
        assert [time - start for time in sessions[0].asked] == later([50])


async def test_no_probe_is_sent_while_messages_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, sessions = silent_wire(monkeypatch, 0)
    async with MCPPool({"s": FAKE}):
        for _ in range(500):
            await anyio.sleep(29)
            wire.channels["s"].note_activity()
        assert sessions[0].asked == []


async def test_an_answer_resets_the_count_of_failed_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, sessions = silent_wire(monkeypatch, *[NEVER, 0] * 50)
    async with MCPPool({"s": FAKE}) as pool:
        start = anyio.current_time()
        await anyio.sleep(HOUR)
        assert pool.server("s").generation == 1
        assert [time - start for time in sessions[0].asked[:4]] == later([30, 40, 70, 80])


@pytest.mark.parametrize("after", [9.9, 10 + TICK / 2, 10.2, 15, 19.9])
async def test_a_late_answer_counts_as_activity_whenever_it_arrives(
    monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    """During the first probe, between the two, during the second."""
    wire, sessions = silent_wire(monkeypatch, NEVER)
    async with MCPPool({"s": FAKE}) as pool:
        await anyio.sleep(30 + SOME)
        (asked,) = sessions[0].asked
        await anyio.sleep(asked + after - anyio.current_time())
        wire.channels["s"].note_activity()
        await anyio.sleep(30 + 20 - 1)
        assert pool.server("s").last_error is None
        await anyio.sleep(2)
        assert isinstance(pool.server("s").last_error, ConnectionLost)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_probe_that_is_rejected_at_once_fails_only_after_its_timeout(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    wire, sessions = silent_wire(monkeypatch, 0, error=MCPError(-32603, "bad gateway"))
    async with MCPPool({"s": FAKE}) as pool:
        start = anyio.current_time()
        await anyio.sleep(45)
        assert [time - start for time in sessions[0].asked] == later([30, 40])
        if answers:
            wire.channels["s"].note_activity()
        await anyio.sleep(7)
        assert (pool.server("s").last_error is None) is answers


async def test_a_probe_timeout_longer_than_the_sdks_own_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK itself gives up on `server/discover` after 10 s."""
    wire, sessions = silent_wire(monkeypatch, 10, error=MCPError(-32001, "timed out"))
    async with MCPPool({"s": FAKE}, health=HealthCheck(interval=5, timeout=60, failure_threshold=1)) as pool:
        await anyio.sleep(5 + 50)
        assert pool.server("s").last_error is None
        wire.channels["s"].note_activity()
        await anyio.sleep(15 + 1)
        assert pool.server("s").last_error is None
        assert len(sessions[0].asked) == 2


async def test_an_error_response_counts_as_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(session: Session, _version: str) -> None:
        session.asked.append(anyio.current_time())
        session.channel.note_activity()
        raise MCPError(-32601, "no such method")

    monkeypatch.setattr(Session, "send_discover", refuse)
    _, sessions = silent_wire(monkeypatch, 0)
    async with MCPPool({"s": FAKE}) as pool:
        await anyio.sleep(HOUR)
        assert pool.server("s").generation == 1
        assert len(sessions[0].asked) == pytest.approx(HOUR / 30, abs=2)


@pytest.mark.parametrize(
    ("pools", "own", "asks"),
    [
        (None, {}, False),
        (HealthCheck(), {"health": None}, False),
        (None, {"health": HealthCheck()}, True),
        (HealthCheck(interval=1e9), {"health": HealthCheck()}, True),
    ],
)
async def test_a_servers_own_health_check_overrides_the_pools_and_none_sends_no_probes(
    monkeypatch: pytest.MonkeyPatch, pools: HealthCheck | None, own: dict[str, Any], asks: bool
) -> None:
    wire, sessions = silent_wire(monkeypatch, 0)
    async with MCPPool({"s": attrs.evolve(FAKE, **own)}, health=pools):
        wire.channels["s"].suspect()
        await anyio.sleep(HOUR)
        assert bool(sessions[0].asked) is asks


async def test_a_suspect_server_is_probed_at_once_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a modern server over HTTP, which sends nothing unless it gets a request."""
    wire, sessions = silent_wire(monkeypatch, 0)
    async with MCPPool({"s": FAKE}):
        wire.channels["s"].probe_when_idle = False
        await anyio.sleep(HOUR)
        assert sessions[0].asked == []
        for _ in range(50):
            wire.channels["s"].suspect()
        start = anyio.current_time()
        await anyio.sleep(HOUR)
        assert [time - start for time in sessions[0].asked] == later([0])


async def test_a_suspect_server_that_does_not_answer_is_lost_even_where_silence_means_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, sessions = silent_wire(monkeypatch, NEVER)
    async with MCPPool({"s": FAKE}) as pool:
        wire.channels["s"].probe_when_idle = False
        wire.channels["s"].suspect()
        await anyio.sleep(2 * 10 + SOME)
        assert isinstance(pool.server("s").last_error, ConnectionLost)
        assert len(sessions[0].asked) == 2


async def test_an_in_process_server_is_never_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    servers = {mode: InProcessServer(calculator(), mode=mode) for mode in ("auto", "legacy")}
    async with MCPPool(servers, health=HealthCheck(interval=1)) as pool:
        for name in ("send_ping", "send_discover"):
            monkeypatch.setattr(ClientSession, name, lambda *_: asked.append("asked"))
        await anyio.sleep(HOUR)
        assert asked == []
        assert pool.connected_count == 2


async def test_health_checks_need_no_task_per_server(monkeypatch: pytest.MonkeyPatch) -> None:
    silent_wire(monkeypatch, 0)

    async def tasks(health: HealthCheck | None) -> int:
        async with MCPPool({str(number): FAKE for number in range(300)}, health=health):
            await anyio.sleep(31)
            return len(anyio.get_running_tasks())

    assert await tasks(HealthCheck()) == await tasks(None)


async def test_hundreds_of_servers_that_fall_silent_together_are_all_detected_in_time_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, _ = silent_wire(monkeypatch, NEVER)
    async with MCPPool({str(number): FAKE for number in range(300)}, restart=RestartPolicy.never()) as pool:
        for _ in range(5):
            await anyio.sleep(10 + SOME / 5)
            for number in range(0, 300, 3):
                wire.channels[str(number)].note_activity()
        states = [isinstance(pool.server(str(number)).state, Failed) for number in range(300)]
        assert states == [number % 3 != 0 for number in range(300)]


@pytest.mark.parametrize("end", ["disconnect", "close_all", "restart", "loss", "block"])
async def test_a_running_probe_delays_nothing_and_ends_with_the_connection(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    wire, sessions = silent_wire(monkeypatch, NEVER)
    async with MCPPool({"s": FAKE}, health=HealthCheck(timeout=1e6)) as pool:
        await anyio.sleep(30 + SOME)
        assert len(sessions[0].asked) == 1
        start = anyio.current_time()
        if end in ("disconnect", "restart"):
            await (pool.disconnect("s") if end == "disconnect" else pool.server("s").restart())
        elif end == "close_all":
            await pool.close_all()
        elif end == "loss":
            wire.kill("s")
        if end != "block":
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            assert [task.name for task in anyio.get_running_tasks() if "asking" in (task.name or "")] == []
    assert anyio.current_time() == start
