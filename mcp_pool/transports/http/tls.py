"""TLS contexts: one per trust configuration and process, created when first needed.

A context costs about 25 ms and 800 KB, nearly all of the cost of a connection, and holds no secret and no session: it
is the only thing that connections to different servers may share.
"""

from __future__ import annotations

import os
import ssl
from functools import cache, lru_cache

import httpx2

from mcp_pool.transports.http.environment import unusable_certificates


def default_context() -> ssl.SSLContext:
    """Return the context for the trust settings in the environment: httpx2 reads the same two variables.

    Raises:
        UnusableSetting: The certificates cannot be loaded.
    """
    try:
        return _default_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    except OSError as error:  # such as `ssl.SSLError`
        raise unusable_certificates(error) from error


@lru_cache(maxsize=8)
def _default_context(_file: str | None, _directory: str | None) -> ssl.SSLContext:
    return httpx2.create_ssl_context()


@cache
def plaintext_context() -> ssl.SSLContext:
    """Return a context that is cheap to create, for connections without TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
