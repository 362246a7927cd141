"""Why a server behind a URL cannot be connected to: its name, its port, its certificate, or a proxy in between."""

from __future__ import annotations

import socket
import ssl
from typing import Final, TypeAlias

import httpx2

from mcp_pool._shared.exceptions import chain
from mcp_pool._shared.redaction import origin
from mcp_pool.transports.channel import DisconnectCause

CANNOT_CONNECT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
"""The errors that prove that no connection was made, so that the server has not received the request."""

Peer: TypeAlias = tuple[str, int]
"""The host and port that a request was connected to."""

CONNECT_TIMEOUT: Final = 10.0
"""Seconds to connect to a host. Waiting for a response has no timeout here: the call itself has a deadline."""
CHECK_PROXY: Final = "Check the proxy, its credentials, and HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."
"""Advice for a proxy that does not forward requests."""
_PORTS: Final = {"http": 80, "https": 443}
_PROBLEMS: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (httpx2.ProxyError, "the proxy refuses", CHECK_PROXY),
    (
        httpx2.ConnectTimeout,
        f"no connection within {CONNECT_TIMEOUT:g} s",
        "Check that its host is up, and that no firewall is in between.",
    ),
    (socket.gaierror, "host name not found", "Check the host name in its URL, and the name service."),
    (
        # Retried all the same: a certificate that has expired is replaced without anybody telling the pool.
        ssl.SSLCertVerificationError,
        "certificate not trusted",
        "Check its certificate, and the host name in its URL. If its authority is private, name that in SSL_CERT_FILE.",
    ),
    (ssl.SSLError, "TLS failed", "Check that its URL has the right port, and that this port is for https."),
    (ConnectionRefusedError, "connection refused", "Check that it is running, and listening there."),
)
"""What may be in the chain of causes, the most telling first: the phrase for it, and the advice."""


def was_unreachable(url: httpx2.URL, error: Exception) -> bool:
    """Return whether an error means that this server could not be connected to, as opposed to another one."""
    if not isinstance(error, CANNOT_CONNECT):
        return False
    try:
        return origin(error.request.url) == origin(url)
    except RuntimeError:  # it has no request: an event hook may raise anything
        return False


def unreachable(url: httpx2.URL, error: Exception, peer: Peer | None = None) -> DisconnectCause:
    """Return the disconnect cause for a server that cannot be connected to. Calls in flight may still be answered.

    Args:
        url: The server's URL.
        error: Why it cannot be connected to.
        peer: What was connected to, if known: the server, or a proxy.
    """
    problem, advice = _problem(error)
    through = ""
    if peer is not None and peer != (url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme)):
        through = f" through the proxy {peer[0]}:{peer[1]}"
        advice = f"{CHECK_PROXY} {advice}" if any(isinstance(e, ssl.SSLError) for e in chain(error)) else CHECK_PROXY
    return DisconnectCause(
        f"could not be reached at {origin(url)}{through} ({problem})",
        cause=error,
        advice=advice,
        draining=True,
        unreachable=True,
    )


def _problem(error: Exception) -> tuple[str, str]:
    """Return what went wrong, as a short phrase, and what to do."""
    found = ((what, advice) for kind, what, advice in _PROBLEMS if any(isinstance(e, kind) for e in chain(error)))
    return next(found, ("no connection", "Check that it is running, and the network connection to it."))
