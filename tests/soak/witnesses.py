"""Observers: callbacks, a reader of events, and a check that everything the pool shows is consistent."""

from __future__ import annotations

from typing import Final, NoReturn

import anyio
import anyio.lowlevel
import attrs

from mcp_pool import (
    ClientCallbacks,
    ConnectionStatus,
    EventsDropped,
    MCPPool,
    PoolCleared,
    ServerAdded,
    ServerRemoved,
    StatusChanged,
)

VARIANTS: Final = 4
"""How many variants of callbacks there are; a server's number selects one."""
PATIENCE: Final = 1.0
"""Seconds within which all events have arrived."""
SLOW: Final = 0.05
"""Seconds that a slow callback takes, so that not all of a flood can be delivered."""


class Callbacks:
    """The pool's callbacks: some work, some are slow, some raise, some hang."""

    def __init__(self) -> None:
        self.heard = 0

    def of(self, server_id: str) -> ClientCallbacks:
        """Return the callbacks for a server, depending on its number."""
        variant = int(server_id.rpartition("-")[2]) % VARIANTS

        async def listen() -> None:
            self.heard += 1
            match variant:
                case 1:
                    await anyio.sleep(SLOW)
                case 2:
                    raise ValueError("this callback fails")
                case 3:
                    await anyio.sleep_forever()
                case _:
                    pass

        async def take_log(params: object) -> None:
            await listen()

        async def take_any(message: object) -> None:
            await listen()

        async def roots(context: object) -> NoReturn:
            await anyio.sleep(SLOW)
            raise LookupError("there are no roots")

        return ClientCallbacks(logging=take_log, message=take_any, list_roots=roots)


@attrs.define
class EventReader:
    """Follows events, and so knows the status of every server."""

    pool: MCPPool
    statuses: dict[str, ConnectionStatus] = attrs.Factory(dict)
    events: int = 0

    async def run(self) -> None:
        """Read events until cancelled."""
        async with self.pool.events() as events:
            self.statuses = self._current_statuses()
            async for event in events:
                self.events += 1
                match event:
                    case ServerAdded(server_id):
                        self.statuses[server_id] = ConnectionStatus.CONNECTING
                    case StatusChanged(server_id, status):
                        self.statuses[server_id] = status
                    case ServerRemoved(server_id):
                        self.statuses.pop(server_id, None)
                    case PoolCleared():
                        self.statuses.clear()
                    case EventsDropped():
                        self.statuses = self._current_statuses()
                    case _:
                        pass

    async def agrees(self) -> bool:
        """Return whether the events agree with the pool, now or in a moment, as a server may just be changing."""
        with anyio.move_on_after(PATIENCE):
            while self.statuses != self.pool.get_all_statuses():
                await anyio.lowlevel.checkpoint()
        return self.statuses == self.pool.get_all_statuses()

    def _current_statuses(self) -> dict[str, ConnectionStatus]:
        return {server_id: server.status for server_id, server in self.pool.servers.items()}


def disagreement(pool: MCPPool) -> str | None:
    """Say where the pool contradicts itself at this moment; None if it does not."""
    statuses, snapshot = pool.get_all_statuses(), pool.snapshot()
    connected = {server_id for server_id, status in statuses.items() if status is ConnectionStatus.CONNECTED}
    if len(connected) != pool.connected_count or snapshot.connected != pool.connected_count:
        counts = f"{pool.connected_count} by count, {snapshot.connected} by snapshot"
        return f"{len(connected)} servers are connected, {counts}"
    for server_id, server in snapshot.servers.items():
        if server.status is not statuses[server_id]:
            return f"{server_id} is {statuses[server_id]}, and {server.status} by snapshot"
    for name, entry in pool.tools.items():
        # The tools of a server that is connected are stale only if its latest listing failed, until the next one.
        failed = "tools" in pool._supervisor.registry.rows[entry.server_id].offering.failed
        if entry.stale is (entry.server_id in connected and not failed):
            return f"{name} is {'stale' if entry.stale else 'fresh'}, and {entry.server_id} {statuses[entry.server_id]}"
    return None
