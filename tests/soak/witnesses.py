"""Who looks on: callbacks, a listener to events, and a look at whether what the pool shows agrees with itself."""

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

MANNERS: Final = 4
"""How many manners callbacks have; a server's number decides."""
PATIENCE: Final = 1.0
"""Seconds in which events have told all."""
SLOW: Final = 0.05
"""Seconds that a slow callback takes: a flood of thousands cannot be delivered."""


class Callbacks:
    """Callbacks of the pool: some take what comes, some are slow, some raise, some hang."""

    def __init__(self) -> None:
        self.heard = 0

    def of(self, server_id: str) -> ClientCallbacks:
        """The callbacks of a server, by its number."""
        manner = int(server_id.rpartition("-")[2]) % MANNERS

        async def listen() -> None:
            self.heard += 1
            match manner:
                case 1:
                    await anyio.sleep(SLOW)
                case 2:
                    raise ValueError("this callback does not listen")
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
class Listener:
    """Follows events, and so knows how every server stands."""

    pool: MCPPool
    told: dict[str, ConnectionStatus] = attrs.Factory(dict)
    events: int = 0

    async def run(self) -> None:
        """Listen for ever."""
        async with self.pool.events() as events:
            self.told = self._living()
            async for event in events:
                self.events += 1
                match event:
                    case ServerAdded(server_id):
                        self.told[server_id] = ConnectionStatus.CONNECTING
                    case StatusChanged(server_id, status):
                        self.told[server_id] = status
                    case ServerRemoved(server_id):
                        self.told.pop(server_id, None)
                    case PoolCleared():
                        self.told.clear()
                    case EventsDropped():
                        self.told = self._living()
                    case _:
                        pass

    async def agrees(self) -> bool:
        """Tell whether what was told is what the pool shows, if not now then in a moment: a server may just change."""
        with anyio.move_on_after(PATIENCE):
            while self.told != self.pool.get_all_statuses():
                await anyio.lowlevel.checkpoint()
        return self.told == self.pool.get_all_statuses()

    def _living(self) -> dict[str, ConnectionStatus]:
        return {server_id: server.status for server_id, server in self.pool.servers.items()}


def disagreement(pool: MCPPool) -> str | None:
    """Say where what the pool shows in one moment contradicts itself; None where it does not."""
    statuses, snapshot = pool.get_all_statuses(), pool.snapshot()
    connected = {server_id for server_id, status in statuses.items() if status is ConnectionStatus.CONNECTED}
    if len(connected) != pool.connected_count or snapshot.connected != pool.connected_count:
        counts = f"{pool.connected_count} by count, {snapshot.connected} by snapshot"
        return f"{len(connected)} servers are connected, {counts}"
    for server_id, server in snapshot.servers.items():
        if server.status is not statuses[server_id]:
            return f"{server_id} is {statuses[server_id]}, and {server.status} by snapshot"
    for name, entry in pool.tools.items():
        if entry.stale is (entry.server_id in connected):
            return f"{name} is {'stale' if entry.stale else 'fresh'}, and {entry.server_id} {statuses[entry.server_id]}"
    return None
