"""What an error must tell the caller: what happened, on which server, and whether the call may have run."""

from __future__ import annotations

from mcp import MCPError
from mcp_types import CallToolResult

from mcp_pool import (
    CallTimeout,
    ConnectionLost,
    HttpStatusError,
    InvalidResponse,
    MCPPoolError,
    ServerUnavailable,
    UnknownServer,
)
from soak.journal import Claim

SELF_EXPLANATORY = ("was disconnected", "was closed with", "max_in_flight=", "is connecting")
"""Reasons of `ServerUnavailable` that need no cause."""

NO_SESSION = "No valid session ID"
"""What a server that has forgotten the session says if it does not send 404. It is passed on as the server's own error if
a fault prevented the `ping` that would have shown whether the session is lost."""

NO_REASON = "stopped answering"
"""The reason if nothing is known; then there must at least be a cause."""


def claim_of(outcome: CallToolResult | Exception | None) -> Claim:
    """What the outcome of a call says about whether it ran; the outcome is None if its caller was cancelled."""
    match outcome:
        case CallToolResult():
            return "ran"
        case MCPError():
            return "did not run" if NO_SESSION in str(outcome) else "ran"
        case ConnectionLost() | CallTimeout():
            return "may have run" if outcome.may_have_run else "did not run"
        case None | HttpStatusError() | InvalidResponse():
            return "may have run"
        case _:
            return "did not run"


def complaint(error: Exception, server_id: str, *, gone: bool) -> str | None:
    """Say what an error leaves out; None if it is complete.

    Args:
        error: What a call raised.
        server_id: The server that was called.
        gone: Whether the server was being removed during the call.
    """
    if not isinstance(error, MCPPoolError):
        return "it is not an error of the pool"
    if error.server_id != server_id:
        return f"it is about {error.server_id!r}"
    if isinstance(_last_cause(error), BaseExceptionGroup):
        return f"there is a group among its causes, {_last_cause(error)!r}"
    return _silence(error, gone=gone)


def _silence(error: MCPPoolError, *, gone: bool) -> str | None:
    """Say what is missing that errors of its class must contain."""
    match error:
        case ConnectionLost():
            explained = error.cause is not None or error.exit_status is not None or NO_REASON not in str(error)
            return None if explained and error.generation else "it gives neither a cause nor a connection"
        case CallTimeout() | HttpStatusError() | InvalidResponse():
            return None if error.generation else "it names no connection"
        case ServerUnavailable():
            explained = error.cause is not None or any(words in str(error) for words in SELF_EXPLANATORY)
            return None if explained else "it has no cause"
        case _:
            return None if gone and isinstance(error, UnknownServer) else "a call has no reason to raise it"


def _last_cause(error: BaseException | None) -> BaseException | None:
    """The first cause that is not the pool's own error. What a library says behind it is the library's."""
    while isinstance(error, MCPPoolError):
        error = error.cause
    return error
