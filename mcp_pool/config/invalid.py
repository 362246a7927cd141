"""A server whose configuration is invalid, in the place of its spec."""

from __future__ import annotations

from typing import final

import attrs

from mcp_pool._shared.docs import with_inherited_attributes
from mcp_pool.config.spec import ServerSpec
from mcp_pool.errors import ConfigError, ConnectError


@final
@with_inherited_attributes
@attrs.frozen(repr=False)
class InvalidServer(ServerSpec):
    """An entry of a configuration file that is invalid. It fails to connect, and other servers are not affected.

    Made by `load_config`. Its inherited attributes have no effect, but for `required`.

    Attributes:
        error: What is wrong with the entry. Two are equal if their messages are.
    """

    error: ConfigError = attrs.field(eq=str, hash=False)

    def __repr__(self) -> str:
        return "InvalidServer()"

    def connect_error(self, server_id: str, attempt: int) -> ConnectError:
        """Return the error of a connection attempt."""
        error = self.error.again()
        return ConnectError(
            f"Server {server_id!r} has an invalid configuration: {error.reason}",
            advice=error.advice or "Correct the file; then call connect() with what load_config() returns.",
            server_id=server_id,
            attempt=attempt,
            cause=error,
            retryable=False,
        )
