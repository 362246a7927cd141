"""TLS contexts: one for each trust configuration and process, made when it is first needed.

A context costs some 25 ms and 800 KB, nearly all of what a connection costs, and holds no secret and no session of
ours: it is the one thing that connections to different servers may share.
"""

from __future__ import annotations

import os
import ssl
from functools import cache, lru_cache

import httpx2


def default_context() -> ssl.SSLContext:
    """Return the context that trusts whom the environment says; httpx2 reads these two variables of it itself."""
    return _default_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=8)
def _default_context(_file: str | None, _directory: str | None) -> ssl.SSLContext:
    return httpx2.create_ssl_context()


@cache
def plaintext_context() -> ssl.SSLContext:
    """Return a context that costs nothing, for connections that speak no TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
