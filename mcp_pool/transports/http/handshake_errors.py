"""What it means when the handshake with a server behind a URL fails, or when it rejects the credentials."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import httpx2

from mcp_pool.config.servers import UrlServer
from mcp_pool.config.spec import ServerSpec
from mcp_pool.errors import HttpStatusError
from mcp_pool.transports.channel import DisconnectCause, Failure
from mcp_pool.transports.http.connecting import CHECK_PROXY

AUTH_STATUSES: Final = frozenset({401, 403})
"""The server rejects the credentials, and will until somebody corrects them."""
OUTAGE_STATUSES: Final = frozenset({407, 408, 425, 429})
"""Together with 5xx: in the handshake they indicate an outage, and say nothing about the server's protocol."""

_FIXED_AUTH: Final = (type(None), httpx2.BasicAuth, httpx2.DigestAuth)
"""Kinds of `auth` whose credentials never change."""


def handshake_failed(failure: Failure) -> DisconnectCause:
    """Return the disconnect cause for a handshake that failed."""
    cause = failure.cause
    if failure.status is not None and not isinstance(cause, HttpStatusError):  # a redirect
        cause = HttpStatusError(f"The server {failure.what}.", status=failure.status)
    return DisconnectCause(failure.what, cause=cause, advice=advice_for(failure))


def advice_for(failure: Failure) -> str:
    """Return the advice for a request that was rejected or did not complete."""
    if failure.advice:
        return failure.advice
    if failure.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return CHECK_PROXY
    if failure.status in AUTH_STATUSES:
        return "Provide valid credentials."
    if is_outage(failure.status):
        return "Check the server's log."
    if failure.status is None and not failure.malformed:
        return "Check the network connection to the server, and what its auth and http_client do."
    return "Check that there is an MCP server at this URL."


def credentials_advice(spec: ServerSpec) -> str:
    """Return what to do when a server rejects the credentials. Those that are fixed in the spec need a new one."""
    then = "then call restart(), or connect() if the server is not in the pool."
    if isinstance(spec, UrlServer) and callable(spec.headers):
        return f"Let the headers function return valid credentials, {then}"
    if isinstance(spec, UrlServer) and (spec.http_client is not None or not isinstance(spec.auth, _FIXED_AUTH)):
        return f"Let auth or http_client send valid credentials, {then}"
    return "Correct headers or auth: pass a new spec to replace(), or to connect() if the server is not in the pool."


def is_inconclusive(failure: Failure) -> bool:
    """Return whether a failure of `server/discover` is no outage, and says nothing about what the server supports.

    Some older servers, and gateways in front of them, respond to an unknown method with 401 or 403, with a web page,
    with nothing, or with a message that is not an answer.
    """
    if failure.status is not None:
        return failure.status in AUTH_STATUSES
    return failure.malformed or failure.cause is None  # with a cause, the response did not arrive


def is_outage(status: int | None) -> bool:
    """Return whether a status indicates a problem of the server or of the network, not of the request."""
    return status is not None and (status in OUTAGE_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
