"""A wire that only plays its part: connections without a server behind them, for tests of time and of large numbers.

It stands in for `hold_connection`, the seam between the child and everything that is below it.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest
from mcp_types import ServerCapabilities

from mcp_pool import ConnectError, StdioServer
from mcp_pool.connection import Connection
from mcp_pool.inventory import Inventory
from mcp_pool.transports.link import Link, Loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp_pool.dial import Dial


@attrs.frozen
class Answering:
    """A session whose server answers whenever it is asked whether it is there."""

    link: Link

    async def send_discover(self, _version: str) -> None:
        """Let the wire hear something."""
        self.link.hear()


def fake_client(link: Link, **more: Any) -> Any:
    """What a connected client says of its server, and what else is given."""
    said = {"server_info": None, "server_capabilities": ServerCapabilities(), "instructions": None}
    return SimpleNamespace(protocol_version="2026-07-28", session=Answering(link), **said, **more)


FAKE = StdioServer("a-program-that-is-never-run")


@attrs.frozen(kw_only=True)
class Life:
    """What one dial leads to. Times in seconds."""

    handshake: float = 0.0
    fails: bool = False
    """Whether the dial fails, after the time of the handshake."""
    needs_person: bool = False
    """Whether it fails in a way that needs a person."""
    uptime: float = math.inf
    """How long the connection stands, unless it is ended; 0: it is lost before anybody can look."""
    closing: float = 0.0
    """How long it takes to say goodbye."""


class FakeWire:
    """Plays a life for each dial, and remembers the dials and their times."""

    def __init__(self, script: Callable[[Dial], Life]) -> None:
        self.script = script
        self.dials: list[Dial] = []
        self.times: list[float] = []
        self.links: dict[str, Any] = {}
        self.open: list[str] = []
        """The ids of the connections that have been dialled and not been closed yet."""

    @property
    def waits(self) -> list[float]:
        """The seconds between each dial and the next."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]

    def forget(self) -> None:
        """Forget what has been dialled so far, where memory is measured."""
        self.dials.clear()
        self.times.clear()
        self.links.clear()

    def kill(self, server_id: str) -> None:
        """Lose the newest connection of a server."""
        self.links[server_id].lose(Loss("fell over"))

    async def hold(
        self, dial: Dial, *, on_open: Callable[[Any, Inventory], None], on_loss: Callable[[Any], None]
    ) -> None:
        """Do what `mcp_pool.dial.hold_connection` does, as the script says."""
        if dial.server_id in self.open:
            pytest.fail("two connections of one id overlap")  # no `Exception`: nobody takes it for a failed dial
        life = self.script(dial)
        self.dials.append(dial)
        self.times.append(anyio.current_time())
        self.links[dial.server_id] = dial.link
        self.open.append(dial.server_id)
        try:
            await anyio.sleep(life.handshake)
            if life.fails or life.needs_person:
                raise ConnectError(
                    f"Server {dial.server_id!r} is not there.",
                    server_id=dial.server_id,
                    attempt=dial.attempt,
                    needs_person=life.needs_person,
                )
            await anyio.lowlevel.checkpoint_if_cancelled()  # as the real one: a cancelled dial does not come to stand
            client: Any = fake_client(dial.link)
            connection = Connection(
                dial.server_id, dial.generation, dial.limits, dial.redactor, client, dial.link, dial.desk
            )

            def report() -> None:
                on_loss(connection)
                connection.go_down()

            dial.link.on_loss = report
            with anyio.CancelScope(shield=True):
                on_open(connection, Inventory())
                if life.uptime > 0:
                    with anyio.move_on_after(life.uptime):
                        await connection.over.wait()
                dial.link.lose(Loss("fell over"))
                await anyio.sleep(life.closing)
        finally:
            self.open.remove(dial.server_id)


def fake_wire(monkeypatch: pytest.MonkeyPatch, *lives: Life) -> FakeWire:
    """Put a fake wire in place: the n-th dial of each server has the n-th life, later ones the last."""
    turns = lives or (Life(),)
    wire = FakeWire(lambda dial: turns[min(dial.attempt, len(turns)) - 1])
    monkeypatch.setattr("mcp_pool.child.hold_connection", wire.hold)
    return wire
