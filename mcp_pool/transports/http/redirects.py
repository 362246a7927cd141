"""Redirects that stay within the origin of a server: followed as the SDK follows them."""

from __future__ import annotations

from typing import Final

import httpx2

from mcp_pool._shared.redaction import origin
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.exchange import forward_request

MAX_REDIRECTS: Final = 5
"""How many redirects in a row are followed, within the origin."""


async def send_within_origin(request: httpx2.Request, forward: Forward) -> httpx2.Response:
    """Send a request and those that it is redirected to, and return the last response, whose body is to be read."""
    response = await forward_request(request, forward)
    for _ in range(MAX_REDIRECTS):
        following = redirected_request(request, response)
        if following is None:
            break
        await response.aclose()
        response = await forward_request(following, forward)
    return response


def redirected_request(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
    """Return the request that a redirect leads to, if it stays within the origin and says the same, as the SDK does."""
    following = response.next_request
    if following is None or following.method != request.method or following.url.userinfo:
        return None
    here, there = origin(request.url), origin(following.url)
    upgraded = request.url.port is None and there == here.replace("http:", "https:", 1)
    return following if there == here or upgraded else None
