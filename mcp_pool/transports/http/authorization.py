"""Authorization of one request, so that concurrent requests do not wait for each other's responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, TypeAlias, final

import httpx2

from mcp_pool.transports.http.tls_handshakes import close_cancelled_handshakes

MAX_ATTEMPTS: Final = 3
"""How many times a request is sent: with the current token, with one that another request has obtained meanwhile, and
with one of its own."""

SDK_PROVIDERS: Final = "mcp.client.auth."
"""The package of the SDK's providers, compared by name so that it is not imported unless a program uses it."""

Flow: TypeAlias = AsyncGenerator[httpx2.Request, httpx2.Response]


@final
class Authorization(httpx2.Auth):
    """Authorizes one request with the `httpx2.Auth` of a spec or of a borrowed client.

    Args:
        auth: The `httpx2.Auth`.
    """

    def __init__(self, auth: httpx2.Auth) -> None:
        self._auth = auth
        self.released: bool = False
        """Whether the flow has released the request to be sent."""

    async def async_auth_flow(self, request: httpx2.Request) -> Flow:
        """See `httpx2.Auth`."""
        steps = self._without_lock(request) if _is_sdk_provider(self._auth) else self._auth.async_auth_flow(request)
        async with aclosing(steps):
            outgoing: httpx2.Request | None = await anext(steps)
            while outgoing is not None:
                if (outgoing.method, outgoing.url) == (request.method, request.url):
                    # The flow may send a copy: it must be traced as well.
                    outgoing.extensions = {**request.extensions, **outgoing.extensions}
                    self.released = True
                else:
                    close_cancelled_handshakes(outgoing)
                outgoing = await _step(steps, (yield outgoing))

    async def _without_lock(self, request: httpx2.Request) -> Flow:
        """Send the request outside of the flow.

        The SDK's providers hold a lock until the response arrives, so one slow call would delay all others. The flow is
        closed as soon as it has a token, and started again with the response if that rejects the token.
        """
        rejection: httpx2.Response | None = None
        for _ in range(MAX_ATTEMPTS):
            used, is_last = request.headers.get("authorization"), False
            async with aclosing(self._auth.async_auth_flow(request)) as flow:
                outgoing: httpx2.Request | None = await anext(flow)
                while outgoing is not None:
                    if outgoing is not request:
                        answer = yield outgoing
                    elif rejection is not None and used == request.headers.get("authorization"):
                        answer, rejection, is_last = rejection, None, True
                    else:
                        break
                    outgoing = await _step(flow, answer)
            rejection = yield request
            if is_last or not _rejects_token(rejection):
                return


def _is_sdk_provider(auth: httpx2.Auth) -> bool:
    """Return whether this is one of the SDK's providers, or derived from one."""
    return any(kind.__module__.startswith(SDK_PROVIDERS) for kind in type(auth).__mro__)


def _rejects_token(answer: httpx2.Response) -> bool:
    """Return whether a server rejected the token: then it did not run the request."""
    if answer.status_code == HTTPStatus.FORBIDDEN:
        return "insufficient_scope" in answer.headers.get("www-authenticate", "")
    return answer.status_code == HTTPStatus.UNAUTHORIZED


async def _step(flow: Flow, answer: httpx2.Response) -> httpx2.Request | None:
    """Send a response into a flow, and return its next request; None at its end."""
    try:
        return await flow.asend(answer)
    except StopAsyncIteration:
        return None
