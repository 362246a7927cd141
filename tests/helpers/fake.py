"""Connections without servers, for tests of timing and of large numbers.

They replace `Connector`, the seam between the child and everything below it.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from mcp_types import ServerCapabilities

from mcp_pool import ConnectError, HttpStatusError, StdioServer
from mcp_pool.connection.calls_in_flight import CallsInFlight
from mcp_pool.connection.connection import Connection
from mcp_pool.connection.dispatcher import CallbackDispatcher
from mcp_pool.connection.listing import PARTS, Listing, Listings
from mcp_pool.transports.channel import Channel, DisconnectCause
from mcp_pool.transports.session_renewal_limit import SessionRenewalLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp_types import Tool

    from mcp_pool.connection.attempt import Attempt
    from mcp_pool.connection.deadline_timer import DeadlineTimer


@attrs.frozen
class Answering:
    """A session whose server answers every probe."""

    channel: Channel
    discover_result: None = None

    async def send_discover(self, _version: str) -> None:
        """Record activity."""
        self.channel.note_activity()


def fake_client(channel: Channel, **more: Any) -> Any:
    """What a connected client says about its server, and any other given attributes."""
    said = {"server_info": None, "server_capabilities": ServerCapabilities(), "instructions": None}
    return SimpleNamespace(protocol_version="2026-07-28", session=Answering(channel), **said, **more)


FAKE = StdioServer("a-program-that-is-never-run")
MOMENT = 0.001


@attrs.frozen(kw_only=True)
class Life:
    """What happens in one attempt. Times are in seconds."""

    handshake: float = 0.0
    fails: bool = False
    """Whether the attempt fails at the end of the handshake."""
    retry_after: float | None = None
    """How many seconds the server asks to wait when it fails, if it does."""
    is_final: bool = False
    """Whether it fails in a way that no retry can fix."""
    uptime: float = math.inf
    """How long the connection is open, unless it is closed; with 0 it is lost before anything else runs."""
    exit_status: int | None = None
    """The status with which the process then exits, found out a moment after the loss; None if that is not known."""
    closing: float = 0.0
    """How long it takes to close."""


def listed(*tools: Tool) -> Listings:
    """What is listed of a server that offers these tools and nothing else."""
    empty = Listing()
    return dict.fromkeys(PARTS, empty) | {"tools": Listing({tool.name: tool for tool in tools})}


class FakeConnector:
    """What every replacement for `Connector` does with its callbacks."""

    def __init__(
        self,
        attempt: Attempt,
        deadline: float,
        *,
        check: Callable[[Listings], None],
        on_open: Callable[[Connection, Listings], None],
        while_open: Callable[[Connection, Listings], Awaitable[None]],
        on_lost: Callable[[Connection], None],
        on_details: Callable[[Connection], None],
        on_suspect: Callable[[], None],
        guardian: Callable[[], Any],
        timer: DeadlineTimer,
        renewal_limit: SessionRenewalLimit,
    ) -> None:
        self.attempt = attempt
        self.deadline, self.timer = deadline, timer
        self.channel = Channel(True, self._lost, on_suspect, on_complete=self._complete)
        self.connection: Connection | None = None
        self._on_open, self._on_lost, self._on_details = on_open, on_lost, on_details

    @property
    def server_id(self) -> str:
        """The id of the server."""
        return self.attempt.target.server_id

    def open(self, *tools: Tool, **client: Any) -> Connection:
        """Open the connection of a server with these tools; the named arguments become attributes of its client."""
        attempt, calls = self.attempt, CallsInFlight(self.timer)
        dispatcher = CallbackDispatcher(self.server_id, attempt.target.limits.callbacks, calls)
        fake: Any = fake_client(self.channel, **client)
        connection = Connection(attempt.target, attempt.generation, fake, self.channel, calls, dispatcher)
        self.channel.is_open = True
        self.connection = connection
        self._on_open(connection, listed(*tools))
        return connection

    def _lost(self) -> None:
        if self.connection is not None and not self.connection.closed.is_set():
            self.connection.note_lost()
            self._on_lost(self.connection)

    def _complete(self) -> None:
        if self.connection is not None:
            self.connection.calls.cancel()
            self._on_details(self.connection)


class FakeWire:
    """Plays a `Life` for each attempt, and records the attempts and their times."""

    def __init__(self, script: Callable[[Attempt], Life]) -> None:
        self.script = script
        self.attempts: list[Attempt] = []
        self.times: list[float] = []
        self.deadlines: list[float] = []
        self.channels: dict[str, Channel] = {}
        self.open: list[str] = []
        """The ids of the servers with an attempt or a connection that has not ended."""

    @property
    def waits(self) -> list[float]:
        """The seconds between each attempt and the next."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]

    def forget(self) -> None:
        """Forget the attempts so far, for tests that measure memory."""
        self.attempts.clear()
        self.times.clear()
        self.deadlines.clear()
        self.channels.clear()

    def kill(self, server_id: str) -> None:
        """Lose the newest connection of a server."""
        self.channels[server_id].mark_lost(DisconnectCause("fell over"))

    def connector(self, *args: Any, **options: Any) -> _Playing:
        """Replace the class `Connector`."""
        return _Playing(self, *args, **options)


class _Playing(FakeConnector):
    def __init__(self, wire: FakeWire, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.wire = wire

    async def run(self) -> None:
        """Do what `Connector.run` does, according to the script."""
        wire, attempt, server_id = self.wire, self.attempt, self.server_id
        if server_id in wire.open:
            pytest.fail(
                "two connections of one id overlap"
            )  # not an `Exception`, so that it does not count as a failed attempt
        life = wire.script(attempt)
        wire.attempts.append(attempt)
        wire.times.append(anyio.current_time())
        wire.deadlines.append(self.deadline)
        wire.channels[server_id] = self.channel
        wire.open.append(server_id)
        try:
            await anyio.sleep(life.handshake)
            if life.fails or life.is_final:
                raise ConnectError(
                    f"Server {server_id!r} is not there.",
                    server_id=server_id,
                    attempt=attempt.number,
                    cause=HttpStatusError("It is busy.", status=503, retry_after=life.retry_after),
                    retryable=not life.is_final,
                )
            await anyio.lowlevel.checkpoint_if_cancelled()  # like the real one: a cancelled attempt never opens
            with anyio.CancelScope(shield=True):
                connection = self.open()
                if life.uptime > 0:
                    with anyio.move_on_after(life.uptime):
                        await connection.closed.wait()
                self.channel.mark_lost(DisconnectCause("fell over", is_complete=life.exit_status is None))
                self.channel.complete(DisconnectCause("exited", life.exit_status))
                await anyio.sleep(life.closing)
        finally:
            wire.open.remove(server_id)


def fake_wire(monkeypatch: pytest.MonkeyPatch, *lives: Life) -> FakeWire:
    """Install a fake wire: the n-th attempt of each server plays the n-th life, and later ones the last."""
    turns = lives or (Life(),)
    wire = FakeWire(lambda attempt: turns[min(attempt.number, len(turns)) - 1])
    monkeypatch.setattr("mcp_pool.supervision.child.Connector", wire.connector)
    return wire


def wire_of(monkeypatch: pytest.MonkeyPatch, lives: dict[str, Life], others: Life) -> FakeWire:
    """A fake wire on which some servers behave differently."""
    wire = fake_wire(monkeypatch)
    wire.script = lambda attempt: lives.get(attempt.target.server_id, others)
    return wire


def most_at_once(times: list[float], lasting: float) -> int:
    """The largest number of attempts, starting at these times, that run at the same time."""
    return max(sum(start <= time < start + lasting - MOMENT for start in times) for time in times)


def start_times(wire: FakeWire) -> dict[str, float]:
    """When the first attempt of each server started, in the order of the attempts."""
    times = dict[str, float]()
    for attempt, time in zip(wire.attempts, wire.times, strict=True):
        times.setdefault(attempt.target.server_id, time)
    return times
