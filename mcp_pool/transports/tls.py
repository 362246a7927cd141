"""TLS contexts: one for each trust configuration and process, made when it is first needed.

A context costs some 25 ms and 800 KB, nearly all of what a connection costs, and holds no secret and no session of
ours: it is the one thing that connections to different servers may share.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from urllib.request import getproxies

import httpx2


def context_for(url: httpx2.URL, *, goes_elsewhere: bool) -> ssl.SSLContext:
    """Return the context for requests to a server.

    Args:
        url: The server's.
        goes_elsewhere: Whether requests may go to other servers too, as those of an authorization flow do.
    """
    through_tls = any(proxy.startswith("https:") for proxy in getproxies().values())
    if url.scheme == "https" or goes_elsewhere or through_tls:
        return _trusting(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    # Trusts nobody and costs nothing: a redirect from http to https then fails, instead of going unverified.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@lru_cache(maxsize=8)
def _trusting(_file: str | None, _directory: str | None) -> ssl.SSLContext:
    """Make a context; httpx2 reads these two variables of the environment itself."""
    return httpx2.create_ssl_context()
