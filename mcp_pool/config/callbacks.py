"""User functions that answer servers' requests and receive their notifications."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import attrs
from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT

from mcp_pool.config.validation import kind_of, reject


@final
@attrs.frozen(kw_only=True)
class ClientCallbacks:
    """Async functions that answer a server's requests and receive its notifications.

    Each has the signature that `mcp.Client` defines for it. If one is missing, the server is told that the client does
    not support that feature. If a function raises, only the request that it serves fails; the exception's type is
    logged, and the server does not see the text.

    Attributes:
        sampling: Queries a model. The `call_timeout` of calls to this server is paused while it runs.
        elicitation: Asks the user. The `call_timeout` of calls to this server is paused while it runs.
        list_roots: Lists the roots that the server may access.
        logging: Receives log messages. The modern protocol sends none unless `client_options` contains `log_level`.
        message: Receives every notification from the server, and errors of the transport.
    """

    sampling: SamplingFnT | None = None
    elicitation: ElicitationFnT | None = None
    list_roots: ListRootsFnT | None = None
    logging: LoggingFnT | None = None
    message: MessageHandlerFnT | None = None

    def __attrs_post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in attrs.fields(ClientCallbacks)}
        wrong = {name: value for name, value in values.items() if value is not None and not callable(value)}
        reject(
            "ClientCallbacks",
            [(name, f"must be an async function, not {kind_of(value)}") for name, value in wrong.items()],
        )

    def merged_with(self, wider: ClientCallbacks) -> ClientCallbacks:
        """Return these callbacks, with the missing ones taken from `wider`."""
        return ClientCallbacks(
            sampling=self.sampling or wider.sampling,
            elicitation=self.elicitation or wider.elicitation,
            list_roots=self.list_roots or wider.list_roots,
            logging=self.logging or wider.logging,
            message=self.message or wider.message,
        )


CallbacksFor: TypeAlias = Callable[[str], ClientCallbacks | None]
"""A function from a server's id to its callbacks."""
