"""The endpoint that a server over SSE names for POSTs (MCP specification 2024-11-05, Transports, HTTP with SSE).

The SDK takes exactly one `endpoint` event. At a second one, or one that it refuses, its reader ends while the HTTP
stream stands: the attempt would hang, or every later call fail. So it only sees the first, and only if it accepts it.
"""

from __future__ import annotations

from typing import final
from urllib.parse import urljoin

import attrs
import httpx2

from mcp_pool._shared.redaction import origin
from mcp_pool.transports.channel import Channel, DisconnectCause
from mcp_pool.transports.http.event_streams import Event


@final
@attrs.define(eq=False)
class Endpoint:
    """Checks the `endpoint` events of one connection."""

    url: str
    """The URL of the event stream, without user and password."""
    channel: Channel
    """The channel of the connection."""
    _current: str = attrs.field(default="", init=False, repr=False)
    """The endpoint; empty until the server has named it."""

    def revise(self, event: Event) -> bytes:
        """Return what the SDK is to read in place of an event."""
        if event.name != b"endpoint" or not event.data:
            return event.raw if event.data else b""
        try:
            named = httpx2.URL(urljoin(self.url, event.data.decode())).copy_with(userinfo=b"", fragment=None)
        except (ValueError, httpx2.InvalidURL) as error:
            return self._refuse("named an endpoint that is not a URL", "Fix the server.", error)
        if (there := origin(named)) != origin(self.url):
            advice = "Connect to it at that origin, or correct the URL that it takes for its own."
            return self._refuse(f"named an endpoint at another origin, {there}, which is not used", advice)
        if not self._current:
            self._current = str(named)  # absolute, with the origin spelt as the SDK expects it
            return f"event: endpoint\ndata: {self._current}\n\n".encode()
        if str(named) != self._current:
            return self._refuse("changed its endpoint, as after a restart behind a proxy")
        return b""

    def _refuse(self, what: str, advice: str = "", cause: Exception | None = None) -> bytes:
        self.channel.mark_lost(DisconnectCause(what, cause=cause, advice=advice))
        return b""
