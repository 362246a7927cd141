"""What a server said about itself in the handshake."""

from __future__ import annotations

from typing import final

import attrs
from mcp import Client
from mcp_types import Implementation, ServerCapabilities


@final
@attrs.frozen
class ServerInfo:
    """What a server said about itself in the handshake.

    Attributes:
        name: Its name; None if it gave none.
        version: Its version; None if it gave none.
        protocol_version: The negotiated version of the protocol.
        capabilities: Its capabilities.
        instructions: Its instructions for use; None if it gave none.
    """

    name: str | None
    version: str | None
    protocol_version: str
    capabilities: ServerCapabilities
    instructions: str | None

    @classmethod
    def of(cls, client: Client) -> ServerInfo:
        """Make it from a connected client. A closed client does not have the information any more."""
        named: Implementation | None = client.server_info
        return cls(
            name=None if named is None else named.name,
            version=None if named is None else named.version,
            protocol_version=client.protocol_version,
            capabilities=client.server_capabilities,
            instructions=client.instructions,
        )
