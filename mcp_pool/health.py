"""Silence: servers that say nothing are asked whether they are there. One timer for the whole pool."""

from __future__ import annotations

import math
from functools import partial
from typing import Final, final

import anyio
import attrs
from anyio.abc import TaskGroup

from mcp_pool.connection import Connection
from mcp_pool.log import log
from mcp_pool.policies import HealthCheck
from mcp_pool.transports.link import Link, Loss

TICK: Final = 0.05
"""Seconds between two looks at the connections, at the least: hundreds of them must not wake the timer each."""


@final
@attrs.define(eq=False, repr=False)
class _Patient:
    """A connection that is watched."""

    connection: Connection
    check: HealthCheck
    doubted: bool = False
    """Whether something happened after which it should be asked at once."""
    missed: int = 0
    """How often it was asked in vain, in a row."""
    signs: int = 0
    """How many signs of life it had given when it was asked last."""
    asking: anyio.CancelScope | None = None
    """Holds the wait for its answer, while there is one."""

    @property
    def due(self) -> float:
        """When it is to be asked, on the event loop's clock."""
        link = self.connection.link
        if self.asking is not None:
            return math.inf
        if self.doubted or (self.missed and link.signs == self.signs):
            return -math.inf
        return link.heard_at + self.check.interval if link.speaks_up else math.inf


@final
@attrs.define(eq=False, repr=False)
class Monitor:
    """Asks the servers of a pool."""

    _patients: dict[Link, _Patient] = attrs.field(factory=dict[Link, _Patient], init=False, repr=False)
    _news: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)

    def watch(self, connection: Connection) -> None:
        """Watch a connection that has just come to stand."""
        check = connection.limits.health
        if check is None or not connection.link.tapped:
            return  # a server of this program cannot be silent: its task ends, and that is seen
        patient = _Patient(connection, check)
        connection.link.on_doubt = partial(self._doubt, patient)
        self._patients[connection.link] = patient
        self._news.set()

    def forget(self, link: Link) -> None:
        """Watch the connection over this link no longer, if there is one."""
        patient = self._patients.pop(link, None)
        if patient is not None and patient.asking is not None:
            patient.asking.cancel()

    async def run(self) -> None:
        """Watch for ever."""
        async with anyio.create_task_group() as group:
            while True:
                self._news = anyio.Event()
                soonest = self._ask_those_that_are_due(group)
                with anyio.CancelScope(deadline=soonest):
                    await self._news.wait()
                await anyio.sleep(TICK)

    def _doubt(self, patient: _Patient) -> None:
        patient.doubted = True
        self._news.set()

    def _ask_those_that_are_due(self, group: TaskGroup) -> float:
        """Begin to ask them, and return when the next one will be due."""
        now = anyio.current_time()
        standing = [patient for patient in self._patients.values() if not patient.connection.over.is_set()]
        for patient in standing:
            if patient.due <= now:
                patient.asking = anyio.CancelScope()
                name = f"mcp_pool: asking {patient.connection.server_id!r}"
                group.start_soon(self._ask, patient, patient.asking, name=name)
        return min((patient.due for patient in standing), default=math.inf)

    async def _ask(self, patient: _Patient, asking: anyio.CancelScope) -> None:
        """Ask, wait for a sign of life, and take the connection down after too many misses."""
        link, check = patient.connection.link, patient.check
        if link.signs != patient.signs:
            patient.missed = 0  # it was only late
        patient.doubted, patient.signs = False, link.signs
        asking.deadline = anyio.current_time() + check.timeout
        with asking:
            await _question(patient.connection)
            if link.signs == patient.signs:
                # Refused at once, as by a proxy before a server that is being restarted: it gets its time all the same.
                await anyio.sleep_forever()
        patient.asking = None
        patient.missed = patient.missed + 1 if link.signs == patient.signs else 0
        if patient.missed >= check.misses:
            words = f"gave no sign of life, asked {check.misses} times for {check.timeout} s each"
            link.lose(Loss(words, advice="See whether it hangs, or give HealthCheck more time."))
        self._news.set()


async def _question(connection: Connection) -> None:
    """Ask a server anything that every server of its era answers; an error is an answer, or none: the link knows."""
    try:
        await connection.ask()
    except Exception as error:  # noqa: BLE001  # it says nothing of the server, and must not end the monitor
        words = "Server {!r} was asked whether it is there: {}"
        log("DEBUG", connection.server_id, words, connection.server_id, type(error).__name__)
