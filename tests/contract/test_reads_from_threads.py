"""Reads from other threads while servers come and go: each value is consistent, at whatever line the other thread is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import mcp_pool
from helpers.common import eventually
from helpers.fake import FAKE, FakeWire, Life, fake_wire
from mcp_pool import ConnectError, ConnectionStatus, InProcessServer, MCPPool, RestartPolicy, StdioServer
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import FrameType

PACKAGE = str(Path(mcp_pool.__file__).parent)
OTHER = StdioServer("another-program-that-is-never-run")
A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)
AT_ONCE = RestartPolicy(initial_delay=0, max_delay=0)
LOOKS = 300
"""How often each thread reads: enough to hit each of the bugs that this test was written for many times."""
READERS = 3

STATUS = {
    "Connecting": ConnectionStatus.CONNECTING,
    "Ready": ConnectionStatus.CONNECTED,
    "Closing": ConnectionStatus.DISCONNECTED,
    "BackingOff": ConnectionStatus.ERROR,
    "Failed": ConnectionStatus.ERROR,
}


def check_snapshot(pool: MCPPool) -> None:
    """Check that a snapshot is consistent."""
    snapshot = pool.snapshot()
    for name, one in snapshot.servers.items():
        assert one.server_id == name
        assert one.status is STATUS[one.state]
        assert (one.state == "BackingOff") == (one.next_retry_at is not None) == (one.next_retry_timestamp is not None)
        assert one.state not in ("BackingOff", "Failed") or one.last_error is not None
        assert one.state != "Ready" or one.protocol_version is not None
        assert one.state in ("Ready", "Closing") or one.protocol_version is None
        assert one.generation > 0 or one.state != "Ready"
        assert one.restarts >= max(0, one.generation - 1)
    told = json.loads(json.dumps(snapshot.to_dict()))
    assert told["restarts"] >= sum(one["restarts"] for one in told["servers"].values())
    assert told["connected"] == sum(one["status"] == "connected" for one in told["servers"].values())


def check_the_rest(pool: MCPPool) -> None:
    """Check that the other reads are consistent."""
    for name, status in pool.get_all_statuses().items():
        assert isinstance(name, str)
        assert isinstance(status, ConnectionStatus)
    connected, of = map(int, re.findall(r"\d+", repr(pool)))
    assert connected <= of
    for name, entry in pool.tools.items():
        assert name.startswith(f"{entry.server_id}__")
    for server in pool.servers.values():
        for name in ("status", "state", "config", "generation", "last_error", "info"):
            getattr(server, name)


def check_known(pool: MCPPool) -> None:
    """Check that a server that was added once is never unknown, although it comes and goes."""
    assert pool.get_status("one") is not None
    assert "one" in pool.get_all_statuses()


def check_all(pool: MCPPool) -> None:
    check_snapshot(pool)
    check_the_rest(pool)


@contextmanager
def at_each_line(look: Callable[[], None]) -> Generator[None]:
    """Call a function at each line of the package that this thread reaches in the block."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            look()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


async def come_and_go(pool: MCPPool, wire: FakeWire) -> None:
    """Make every kind of change, one after the other."""
    await pool.connect("one", FAKE)
    for generation in (2, 3):
        wire.kill("one")
        await eventually(lambda generation=generation: pool.server("one").generation == generation)
    await pool.server("one").restart()
    await pool.replace("one", OTHER)
    with pytest.raises(ConnectError):
        await pool.connect("bad", FAKE)
    pool.add("bad", FAKE)
    await pool.disconnect("bad")
    await pool.disconnect("one")
    await pool.connect("one", FAKE)


def wire_with_a_bad_server(monkeypatch: pytest.MonkeyPatch) -> FakeWire:
    wire = fake_wire(monkeypatch)
    wire.script = lambda attempt: Life(is_final=attempt.target.server_id == "bad", closing=0.001)
    return wire


async def test_reads_are_consistent_at_each_line_of_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, looks, torn = wire_with_a_bad_server(monkeypatch), 0, list[AssertionError]()

    def look() -> None:
        nonlocal looks
        looks += 1
        try:
            check_all(pool)
            if seen:
                check_known(pool)
        except AssertionError as error:  # raised here, it would end the traced code
            torn.append(error)

    async with MCPPool(restart=AT_ONCE) as pool:
        seen = False
        with at_each_line(look):
            await pool.connect("one", FAKE)
            seen = True
            await come_and_go(pool, wire)
            seen = False
            await pool.close_all()
            await come_and_go(pool, wire)
    assert torn == []
    assert looks > 1000


async def lost(pool: MCPPool, wire: FakeWire) -> None:
    wire.kill("one")


async def disconnected(pool: MCPPool, wire: FakeWire) -> None:
    await pool.disconnect("one")


async def replaced(pool: MCPPool, wire: FakeWire) -> None:
    await pool.replace("one", OTHER if pool.server("one").config == FAKE else FAKE)


async def lost_and_back(pool: MCPPool, wire: FakeWire) -> None:
    await pool.server("one").restart()


def read_with_a_change(look: Callable[[], None], line: int, change: Callable[[], Awaitable[None]]) -> bool:
    """Read, and let the event loop make a change when this thread reaches a line of the package; return whether it did.

    Args:
        look: Reads and checks.
        line: The number of the line, counted in the order of execution.
        change: Runs in the event loop while this thread waits.
    """
    lines = 0

    def pause() -> None:
        nonlocal lines
        lines += 1
        if lines == line:
            anyio.from_thread.run(change)

    with at_each_line(pause):
        look()
    return lines >= line


@pytest.mark.parametrize("change", [lost, disconnected, replaced, lost_and_back])
@pytest.mark.parametrize("check", [check_snapshot, check_the_rest, check_known])
async def test_a_read_is_consistent_if_a_change_happens_at_any_of_its_lines(
    check: Callable[[MCPPool], None],
    change: Callable[[MCPPool, FakeWire], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, line, changed = fake_wire(monkeypatch), 0, True
    async with MCPPool(restart=A_WHILE) as pool:
        await pool.connect("two", FAKE)
        while changed:
            line += 1
            await pool.connect("one", FAKE if change is not replaced or "one" not in pool.servers else OTHER)
            changed = await anyio.to_thread.run_sync(
                read_with_a_change, lambda: check(pool), line, lambda: change(pool, wire)
            )
            await pool.disconnect("one")
    assert line > 5


async def test_a_listing_that_changes_while_another_thread_reads_it_is_not_hidden() -> None:
    """What one thread has merged is cached for all: it must not be taken for newer than it is."""
    line, changed = 0, True
    async with MCPPool() as pool:
        while changed:
            line += 1
            changed = await anyio.to_thread.run_sync(
                read_with_a_change,
                lambda: dict(pool.tools),
                line,
                lambda: pool.connect("one", InProcessServer(calculator())),
            )
            assert ("one__add" in pool.tools) == changed
            await pool.disconnect("one")
            pool.add("zero", FAKE)
            await pool.disconnect("zero")
    assert line > 5


async def test_threads_that_read_all_the_time_get_consistent_values_while_servers_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, reading = wire_with_a_bad_server(monkeypatch), READERS
    monkeypatch.setattr("mcp_pool.supervision.registry.REMEMBERED_LIMIT", 5)
    monkeypatch.setattr("mcp_pool.supervision.counters.KEPT_LIMIT", 5)

    def read() -> None:
        for _ in range(LOOKS):
            check_all(pool)
            check_known(pool)

    async def read_in_a_thread() -> None:
        nonlocal reading
        await anyio.to_thread.run_sync(read)
        reading -= 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with MCPPool(restart=AT_ONCE) as pool, anyio.create_task_group() as group:
            await pool.connect("one", FAKE)
            for _ in range(READERS):
                group.start_soon(read_in_a_thread)
            while reading:
                await come_and_go(pool, wire)
                for number in range(7):
                    await pool.connect(f"server {number}", FAKE)
                for number in range(7):
                    await pool.disconnect(f"server {number}")
    finally:
        sys.setswitchinterval(interval)
