"""Settings of the program's environment that httpx2 reads, and what is wrong with them if it cannot use them."""

from __future__ import annotations

import os
import ssl
from typing import Final, final

import httpx2

PROXY_VARIABLES: Final = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""The variables with the URLs of proxies. The lower-case one of a pair comes first, and is the one that counts."""
PROXY_ERRORS: Final = (ValueError, ImportError, httpx2.InvalidURL)
"""What httpx2 raises for a proxy that it cannot use."""


@final
class UnusableSetting(Exception):
    """A setting in the environment cannot be used, so that no request can be sent. No retry can fix that.

    Args:
        what: What is wrong, as a phrase that begins with the setting's name.
        advice: What to do, as a phrase without an end.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.advice: str = f"{advice}, then call restart(), or connect() if the server is not in the pool."


def unusable_certificates(error: OSError) -> UnusableSetting:
    """Return the error for trusted certificates that cannot be loaded.

    Args:
        error: What loading them raised.
    """
    names = (name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name))
    name = next(names, "the system's trust store")
    why = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
    return UnusableSetting(f"{name} cannot be used ({why})", f"Correct {name}")


def unusable_proxy() -> UnusableSetting:
    """Return the error for a proxy that httpx2 cannot use. It does not show the URL, which may hold a password."""
    name = next((name for name in PROXY_VARIABLES if not _is_usable(os.environ.get(name))), "the system's proxy")
    return UnusableSetting(
        f"{name} is not the URL of a proxy that can be used",
        f"Correct {name} (http://host:port; socks5:// needs the package socksio)",
    )


def _is_usable(proxy: str | None) -> bool:
    if not proxy:
        return True
    try:
        httpx2.AsyncHTTPTransport(
            proxy=proxy if "://" in proxy else f"http://{proxy}", verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )
    except PROXY_ERRORS:
        return False
    return True
