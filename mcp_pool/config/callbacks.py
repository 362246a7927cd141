"""Functions of the user's that servers call back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import attrs
from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT

from mcp_pool.config.validation import kind_of, reject


@final
@attrs.frozen(kw_only=True)
class ClientCallbacks:
    """Async functions that answer a server's requests and take its notifications.

    Each has the signature that `mcp.Client` gives it. Without one, the server is told that the client does not support
    it. What a function raises is logged and fails only the request it serves; the server does not see its text.
    """

    sampling: SamplingFnT | None = None
    """Asks a model. The call timeouts of this server pause meanwhile."""
    elicitation: ElicitationFnT | None = None
    """Asks a person. The call timeouts of this server pause meanwhile."""
    list_roots: ListRootsFnT | None = None
    """Lists the roots that the server may access."""
    logging: LoggingFnT | None = None
    """Takes a log message of the server. On the modern protocol none comes without `log_level` in `client_options`."""
    message: MessageHandlerFnT | None = None
    """Takes any notification of the server, and errors of the transport."""

    def __attrs_post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in attrs.fields(ClientCallbacks)}
        wrong = {name: value for name, value in values.items() if value is not None and not callable(value)}
        reject(
            "ClientCallbacks",
            [(name, f"must be an async function, not {kind_of(value)}") for name, value in wrong.items()],
        )

    def merged_with(self, wider: ClientCallbacks) -> ClientCallbacks:
        """Return these, and the wider ones where there is none here."""
        return ClientCallbacks(
            sampling=self.sampling or wider.sampling,
            elicitation=self.elicitation or wider.elicitation,
            list_roots=self.list_roots or wider.list_roots,
            logging=self.logging or wider.logging,
            message=self.message or wider.message,
        )


CallbacksFor: TypeAlias = Callable[[str], ClientCallbacks | None]
"""Returns the callbacks of a server, by its id."""
