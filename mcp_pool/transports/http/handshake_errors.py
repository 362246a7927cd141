"""What it means when the handshake with a server behind a URL fails."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from mcp_pool.errors import HttpStatusError
from mcp_pool.transports.channel import DisconnectCause, Failure

AUTH_STATUSES: Final = frozenset({401, 403})
"""The server rejects the credentials, and will until somebody corrects them."""
OUTAGE_STATUSES: Final = frozenset({407, 408, 425, 429})
"""Together with 5xx: in the handshake they indicate an outage, and say nothing about the server's protocol."""


def handshake_failed(failure: Failure) -> DisconnectCause:
    """Return the disconnect cause for a handshake that failed."""
    cause = failure.cause
    if failure.status is not None:
        cause = HttpStatusError(f"The server {failure.what}.", status=failure.status)
    if failure.advice:
        advice = failure.advice
    elif failure.status in AUTH_STATUSES:
        advice = "Correct headers or auth: disconnect the server and connect it with a new spec."
    elif is_outage(failure.status):
        advice = "Check the server's log."
    elif failure.status is None and not failure.malformed:
        advice = "See the cause."
    else:
        advice = "Check that there is an MCP server at this URL."
    return DisconnectCause(failure.what, cause=cause, advice=advice)


def is_outage(status: int | None) -> bool:
    """Return whether a status indicates a problem of the server or of the network, not of the request."""
    return status is not None and (status in OUTAGE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
