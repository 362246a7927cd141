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


def handshake_failed(failure: Failure) -> DisconnectCause:
    """Return the loss of a server that would not shake hands."""
    cause = failure.cause if failure.status is None else HttpStatusError(f"It {failure.what}.", status=failure.status)
    if failure.status in AUTH_STATUSES:
        advice = "Correct headers or auth: disconnect the server and connect it with a new spec."
    elif is_outage(failure.status):
        advice = "Check the server's log."
    elif failure.status is None and not failure.malformed:
        advice = "See the cause."
    else:
        advice = "Check that there is an MCP server at this URL."
    return DisconnectCause(failure.what, cause=cause, advice=advice)


def is_outage(status: int | None) -> bool:
    """Tell whether a status speaks of trouble at the server, and not of the request."""
    return status is not None and (status in OUTAGE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
