"""Closes the sockets of TLS handshakes that are cancelled: httpcore2 leaves them to the garbage collector."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias, cast, final

import anyio
import attrs
import httpx2

Trace: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Called with the name and the details of each trace event of a request."""


class _Socket(Protocol):
    async def aclose(self) -> None:
        """Close it."""
        ...


def close_cancelled_handshakes(request: httpx2.Request) -> None:
    """Let a request close its socket if its TLS handshake fails or is cancelled, beside what else traces it."""
    trace = _HandshakeTrace(cast("Trace | None", request.extensions.get("trace")))
    request.extensions = {**request.extensions, "trace": trace.note}


@final
@attrs.define(eq=False)
class _HandshakeTrace:
    _next: Trace | None
    _socket: _Socket | None = attrs.field(default=None, init=False)
    """What was connected last, without TLS."""

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle a trace event."""
        if event.endswith("connect_tcp.complete"):
            self._socket = info["return_value"]
        elif event.endswith("start_tls.failed") and self._socket is not None:
            with anyio.CancelScope(shield=True):
                await self._socket.aclose()
        if self._next is not None:
            await self._next(event, info)
