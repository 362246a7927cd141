"""Keeps what one server offers current, while a connection is open: lists again what has changed, expired or failed."""

from __future__ import annotations

import math
import random
from typing import Final, final

import anyio
import attrs

from mcp_pool._shared.guard import described
from mcp_pool._shared.log import log
from mcp_pool.config.settings import DEFAULT
from mcp_pool.connection.connection import Connection
from mcp_pool.connection.listing import Listing, Listings, Part, list_part
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.subscriber import Subscriber

MIN_INTERVAL: Final = 0.25
"""Seconds between two listings at least, whatever the server says: one that reports a change after each listing, or a
listing that expires at once, must not keep the program busy."""


@final
@attrs.define(eq=False, repr=False)
class Refresher:
    """Lists parts of what one server offers again, over one connection."""

    row: Row
    """The server."""
    connection: Connection
    """The connection."""
    listings: Listings
    """What was listed when it opened."""
    _due: dict[Part, float] = attrs.field(factory=dict[Part, float], init=False)
    """When parts that expire or could not be listed are to be listed again, on the event loop's clock."""
    _failures: dict[Part, int] = attrs.field(factory=dict[Part, int], init=False)
    """How many times in a row a part could not be listed."""

    async def run(self) -> None:
        """List again what has changed, expired or failed, until cancelled. Changes during a listing cause one more."""
        changes = self.connection.dispatcher.changes
        for part, listing in self.listings.items():
            self._plan(part, listing)
        while True:
            with anyio.CancelScope(deadline=min(self._due.values(), default=math.inf)):
                await changes.changed.until(lambda: changes.parts)
            now = anyio.current_time()
            due: set[Part] = {part for part, at in self._due.items() if at <= now}
            await self._list(changes.take() | due)
            await anyio.sleep(MIN_INTERVAL)

    async def _list(self, parts: set[Part]) -> None:
        """List parts, in parallel, and take over what was listed."""
        listings: dict[Part, Listing | BaseException] = {}
        number = self.row.offering.begin_listing()
        async with anyio.create_task_group() as group:
            for part in parts:
                group.start_soon(self._list_part, part, listings)
        if self.connection.closed.is_set():
            return
        if (failure := self.row.update_offer(listings, number)) is not None:
            listings["tools"] = failure
        for part, listing in listings.items():
            self._plan(part, listing)

    async def _list_part(self, part: Part, listings: dict[Part, Listing | BaseException]) -> None:
        connection = self.connection
        try:
            listings[part] = await connection.call(
                lambda _: list_part(connection.client, connection.target, part),
                what=f"the listing of {part.replace('_', ' ')}",
                timeout=DEFAULT,
                started_at=anyio.current_time(),
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, the earlier listing stays
            listings[part] = error

    def _plan(self, part: Part, listing: Listing | BaseException) -> None:
        """Decide when a part is listed again, and log why if it could not be listed."""
        now = anyio.current_time()
        self._due.pop(part, None)
        if isinstance(listing, Listing):
            self._failures.pop(part, None)
            if listing.ttl and part not in self.connection.dispatcher.changes.told:
                self._due[part] = now + max(listing.ttl, MIN_INTERVAL)
            return
        failures = self._failures.get(part, 0)
        self._failures[part] = failures + 1
        policy = self.row.target.limits.restart
        delay = max(MIN_INTERVAL, policy.delay(failures, random.random()))  # noqa: S311  # only jitter
        self._due[part] = now + delay
        words = "The {} of server {!r} could not be listed; any earlier listing stays. Next attempt in {:.2f} s. {}"
        text = self.row.target.redactor.text(described(listing))
        log("WARNING", self.row.server_id, words, part.replace("_", " "), self.row.server_id, delay, text)


async def keep_current(row: Row, connection: Connection, listings: Listings) -> None:
    """Keep what a server offers current, and subscribe to its resources, until cancelled.

    Args:
        row: The server.
        connection: Its open connection.
        listings: What was listed when it opened.
    """
    async with anyio.create_task_group() as group:
        group.start_soon(Refresher(row, connection, listings).run)
        group.start_soon(Subscriber(row.subscriptions, connection).run)
