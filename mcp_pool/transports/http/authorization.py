"""Authorization of one request, in which it neither waits for another one's answer nor lets another one wait."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Final, TypeAlias, final

import httpx2

MAX_ATTEMPTS: Final = 3
"""How often a request is sent: with the token at hand, with one that another request has got meanwhile, and with one of
its own."""

SDK_PROVIDERS: Final = "mcp.client.auth."
"""Where the SDK's providers are defined; they are not imported for those who use none."""

Flow: TypeAlias = AsyncGenerator[httpx2.Request, httpx2.Response]


@final
class Authorization(httpx2.Auth):
    """The authorization of one request by somebody else's `httpx2.Auth`.

    Args:
        auth: Authorizes.
    """

    def __init__(self, auth: httpx2.Auth) -> None:
        self._auth = auth
        self.released: bool = False
        """Whether the request was handed over to be sent."""

    async def async_auth_flow(self, request: httpx2.Request) -> Flow:
        """See `httpx2.Auth`."""
        steps = self._briefly(request) if _holds_a_lock(self._auth) else self._auth.async_auth_flow(request)
        async with aclosing(steps):
            outgoing: httpx2.Request | None = await anext(steps)
            while outgoing is not None:
                if (outgoing.method, outgoing.url) == (request.method, request.url):
                    # A copy, too, tells on its way what becomes of the request.
                    outgoing.extensions = {**request.extensions, **outgoing.extensions}
                    self.released = True
                outgoing = await _step(steps, (yield outgoing))

    async def _briefly(self, request: httpx2.Request) -> Flow:
        """Send the request behind the flow's back.

        The SDK's providers hold their lock until the answer has come, so that one slow call would delay all others. The
        flow is left when it has a token, and entered again with an answer that refuses the token.
        """
        refusal: httpx2.Response | None = None
        for _ in range(MAX_ATTEMPTS):
            used, is_last = request.headers.get("authorization"), False
            async with aclosing(self._auth.async_auth_flow(request)) as flow:
                outgoing: httpx2.Request | None = await anext(flow)
                while outgoing is not None:
                    if outgoing is not request:
                        answer = yield outgoing
                    elif refusal is not None and used == request.headers.get("authorization"):
                        answer, refusal, is_last = refusal, None, True
                    else:
                        break
                    outgoing = await _step(flow, answer)
            refusal = yield request
            if is_last or not _asks_for_a_token(refusal):
                return


def _holds_a_lock(auth: httpx2.Auth) -> bool:
    """Tell whether it is one of the SDK's providers, whose module is not imported for those who use none."""
    return any(kind.__module__.startswith(SDK_PROVIDERS) for kind in type(auth).__mro__)


def _asks_for_a_token(answer: httpx2.Response) -> bool:
    """Tell whether a server refused a token: then it did not run what was asked."""
    wider = answer.status_code == HTTPStatus.FORBIDDEN and "insufficient_scope" in answer.headers.get(
        "www-authenticate", ""
    )
    return wider or answer.status_code == HTTPStatus.UNAUTHORIZED


async def _step(flow: Flow, answer: httpx2.Response) -> httpx2.Request | None:
    """Give a flow an answer, and return its next request; None at its end."""
    try:
        return await flow.asend(answer)
    except StopAsyncIteration:
        return None
