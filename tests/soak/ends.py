"""What an error has to tell who made the call: what happened, to which server, and whether the call may have run."""

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

SPEAKING_FOR_THEMSELVES = ("was disconnected", "was closed together", "max_in_flight=", "is connecting")
"""Reasons of `ServerUnavailable` that need no other error behind them."""

NO_SESSION = "No valid session ID"
"""How a server that has forgotten the session answers, if not by 404. It stands as the server's own error where the
server, spoilt meanwhile, could not be asked whether it knows the session."""

NO_REASON = "stopped answering"
"""What is said where nothing is known; then at least a cause has to be there."""


def claim_of(outcome: CallToolResult | Exception | None) -> Claim:
    """What the end of a call says of whether it ran; None: its caller was cancelled."""
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
    """Say what an error fails to tell; None when it tells all.

    Args:
        error: What a call raised.
        server_id: The server that was called.
        gone: Whether the server was being removed during the call.
    """
    if not isinstance(error, MCPPoolError):
        return "it is no error of the pool"
    if error.server_id != server_id:
        return f"it is about {error.server_id!r}"
    if isinstance(_last_cause(error), BaseExceptionGroup):
        return f"there is a group among its causes, {_last_cause(error)!r}"
    return _silence(error, gone=gone)


def _silence(error: MCPPoolError, *, gone: bool) -> str | None:
    """Say what is missing of what errors of its class tell."""
    match error:
        case ConnectionLost():
            told = error.cause is not None or error.exit_status is not None or NO_REASON not in str(error)
            return None if told and error.generation else "it tells neither a cause nor a connection"
        case CallTimeout() | HttpStatusError() | InvalidResponse():
            return None if error.generation else "it tells no connection"
        case ServerUnavailable():
            told = error.cause is not None or any(words in str(error) for words in SPEAKING_FOR_THEMSELVES)
            return None if told else "it has no cause"
        case _:
            return None if gone and isinstance(error, UnknownServer) else "a call has no reason to raise it"


def _last_cause(error: BaseException | None) -> BaseException | None:
    """The first cause that is not the pool's own error. What a library says behind it is the library's."""
    while isinstance(error, MCPPoolError):
        error = error.cause
    return error
