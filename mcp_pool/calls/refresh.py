"""Lists what a server offers again because somebody asks for it."""

from __future__ import annotations

from mcp import Client
from mcp.shared.dispatcher import ProgressFnT

from mcp_pool.calls.call import Request, call
from mcp_pool.connection.listing import Listing, Part, list_part, parts_of
from mcp_pool.errors import MCPPoolError
from mcp_pool.supervision.row import Row


async def refresh(row: Row, wait_timeout: float | None) -> None:
    """List all parts, one after another, and take over what could be listed.

    Args:
        row: The server.
        wait_timeout: Seconds to wait for it; None: no limit.

    Raises:
        NameCollision: The tools that were listed cannot be offered.
        Exception: A part could not be listed; as for `call`.
    """
    listings: dict[Part, Listing | BaseException] = {}
    number = 0

    async def send(client: Client, _: ProgressFnT) -> None:
        nonlocal number
        number = row.offering.begin_listing()  # not before the wait for the server, whose first listing is earlier
        for part in parts_of(client):
            try:
                listings[part] = await list_part(client, row.target, part)
            except Exception as error:
                listings[part] = error
                if (connection := row.connection) is not None:  # nobody else would list it again
                    connection.dispatcher.changes.note(part)
                raise

    failure: MCPPoolError | None = None
    try:
        await call(row, Request(send=send, what="the listing of what it offers"), wait_timeout)
    finally:
        failure = row.update_offer(listings, number)
    if failure is not None:
        raise failure
