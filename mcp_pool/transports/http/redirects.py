"""Redirects within the server's origin, followed as the SDK does."""

from __future__ import annotations

from typing import Final

import httpx2

from mcp_pool._shared.redaction import origin
from mcp_pool.transports.http.client import Forward
from mcp_pool.transports.http.exchange import forward_request

MAX_REDIRECTS: Final = 5
"""Maximum number of redirects in a row, within the origin."""


async def send_within_origin(request: httpx2.Request, forward: Forward) -> httpx2.Response:
    """Send a request, follow its redirects within the origin, and return the last response with its body unread."""
    response = await forward_request(request, forward)
    for _ in range(MAX_REDIRECTS):
        following = redirected_request(request, response)
        if following is None:
            break
        await response.aclose()
        response = await forward_request(following, forward)
    return response


def redirected_request(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
    """Return the request to follow a redirect with; None if it changes the origin or the method, as in the SDK."""
    following = response.next_request
    if following is None or following.method != request.method or following.url.userinfo:
        return None
    here, there = origin(request.url), origin(following.url)
    upgraded = request.url.port is None and there == here.replace("http:", "https:", 1)
    return following if there == here or upgraded else None
