"""What a modern server said about itself, kept for the next connection."""

from __future__ import annotations

import math
from typing import final

import anyio
import attrs
from mcp import Client
from mcp_types import DiscoverResult


@final
@attrs.frozen(eq=False, repr=False)
class Discovery:
    """The answer to `server/discover` (MCP specification 2026-07-28), with which a reconnect needs no other."""

    result: DiscoverResult
    """The answer."""
    protocol_version: str
    """The version that was chosen."""
    expires_at: float
    """When the server has to be asked again, on the event loop's clock; infinity if it did not say."""

    @classmethod
    def of(cls, client: Client) -> Discovery | None:
        """Return what a server answered; None if it was not asked."""
        result = client.session.discover_result
        if result is None:
            return None
        lifetime = result.ttl_ms / 1000 if result.ttl_ms else math.inf
        return cls(result, client.protocol_version, anyio.current_time() + lifetime)

    @property
    def is_expired(self) -> bool:
        """Whether the server has to be asked again."""
        return anyio.current_time() >= self.expires_at
