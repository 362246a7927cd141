"""What it means when a server behind a URL does not shake hands."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from mcp_pool.errors import HttpStatusError
from mcp_pool.transports.channel import DisconnectCause, Failure

AUTH_STATUSES: Final = frozenset({401, 403})
"""What a server answers until somebody corrects the credentials."""
OUTAGE_STATUSES: Final = frozenset({407, 408, 425, 429})
"""With all from 500 on: in the handshake they tell of trouble, and not of the protocol that a server speaks."""


def refused(failure: Failure) -> DisconnectCause:
    """Return the loss of a server that would not shake hands."""
    cause = failure.cause if failure.status is None else HttpStatusError(f"It {failure.what}.", status=failure.status)
    return DisconnectCause(failure.what, cause=cause, advice=advice_for(failure))


def advice_for(failure: Failure) -> str:
    """Say what can be done about a request that was refused, or that broke off."""
    if failure.status in AUTH_STATUSES:
        return "Correct headers or auth, and call connect() with the new spec."
    if is_trouble(failure.status):
        return "Check the server's log."
    if failure.status is None and not failure.malformed:
        return "Check the network on the way to it, and what its auth and http_client do."
    return "Check that there is an MCP server at this URL."


def is_trouble(status: int | None) -> bool:
    """Tell whether a status speaks of trouble at the server, and not of the request."""
    return status is not None and (status in OUTAGE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
