"""What answers and rejections say about a session over HTTP. Decisions only: no I/O, no clock.

A server answers 404 if it does not know a session (MCP specification, Streamable HTTP, Session Management). Some use
another status, or a JSON-RPC error that looks like the answer of a tool. These prove nothing: the call may have run,
and the session may be fine. So they only raise a suspicion, which one `ping` confirms or clears: a server that rejects
a ping in exactly the same way rejects everything.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import Final, final

import attrs
from mcp_types import METHOD_NOT_FOUND, JSONRPCError

from mcp_pool.errors import HttpStatusError
from mcp_pool.transports.channel import Answer, DisconnectCause

PING_METHOD: Final = "ping"
"""The method of a ping."""
SESSION_ADVICE: Final = "It may have been restarted, or it has replicas without sticky sessions behind a load balancer."
"""What may be behind the loss of a session."""
SESSION_LOST: Final = "no longer knows the session"
"""What happened if the server itself says that the session is lost."""


class Finding(Enum):
    """What the response to a request says about its session."""

    NOTHING = "nothing"
    """No sign that the session is lost."""
    SUSPECT = "suspect"
    """The session may be lost: a `ping` must decide."""
    LOST = "lost"
    """The session is lost, and the request has not run."""


@final
@attrs.frozen
class Rejection:
    """How a server rejected a request. Rejections that look the same to a client are equal."""

    status: int
    """The HTTP status."""
    code: int | None = None
    """The code of the JSON-RPC error in the body; None if there was none."""
    message: str = attrs.field(default="", repr=False)
    """The message of that error."""

    @classmethod
    def of(cls, status: int, message: Answer | None) -> Rejection:
        """Make it from a response.

        Args:
            status: The HTTP status.
            message: The JSON-RPC message in the body, if any.
        """
        if not isinstance(message, JSONRPCError):
            return cls(status)
        return cls(status, message.error.code, message.error.message)

    def is_confirmed_by(self, ping: Rejection) -> bool:
        """Return whether a ping was rejected in exactly the same way.

        "Method not found" confirms nothing: a server without `ping` answers so to any method that it does not have.
        """
        return ping == self and ping.code != METHOD_NOT_FOUND


@final
@attrs.define(eq=False)
class SessionEvidence:
    """What the responses in one session have shown so far."""

    _latest: Rejection | None = attrs.field(default=None, init=False)
    """The error that answered the latest call; None if the answer was a result, or the second of two equal errors."""
    _ping_answered: bool = attrs.field(default=False, init=False)
    """Whether a ping was ever answered."""

    def note_answer(self, error: Rejection | None, *, is_ping: bool) -> Finding:
        """Record an answer with the id of its request, and return what follows from it.

        Args:
            error: The error, if the answer is one.
            is_ping: Whether the request was a `ping` instead of a call.
        """
        if is_ping:
            self._ping_answered = True
            return Finding.NOTHING
        is_repeated = error is not None and error == self._latest
        self._latest = None if is_repeated else error
        return Finding.SUSPECT if is_repeated else Finding.NOTHING

    def note_rejection(self, rejection: Rejection, *, is_ping: bool, is_certain: bool) -> Finding:
        """Record an error status without an answer in the body, and return what follows from it.

        Args:
            rejection: The response.
            is_ping: Whether the request was a `ping` instead of a call.
            is_certain: Whether it is certain that the body contains no answer.
        """
        if rejection.status == HTTPStatus.NOT_FOUND:
            return Finding.LOST if is_certain else Finding.SUSPECT
        if not is_suspicious(rejection.status):
            return Finding.NOTHING
        # A gateway that blocks every ping with an error page must not cost the server one session after another.
        is_evidence = not is_ping or rejection.code is not None or self._ping_answered
        return Finding.SUSPECT if is_evidence else Finding.NOTHING


def is_suspicious(status: int) -> bool:
    """Return whether a status may be about the session: 4xx except 429, which is about load."""
    is_client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return is_client_error and status != HTTPStatus.TOO_MANY_REQUESTS


def session_lost(status: int) -> DisconnectCause:
    """Return the disconnect cause for a session that the server says it does not know."""
    # Unreachable: there is no session left to end.
    return attrs.evolve(_session_cause(SESSION_LOST, status), unreachable=True)


def session_presumed_lost(status: int) -> DisconnectCause:
    """Return the disconnect cause for a server that rejects a ping in the same way as a call."""
    # Not unreachable: the session is ended, in case the server still knows it.
    return _session_cause(
        "appears to have lost the session: it rejected a ping exactly like the request before", status
    )


def _session_cause(what: str, status: int) -> DisconnectCause:
    # Draining: other calls that were rejected must find out themselves, because then they may be sent again.
    cause = HttpStatusError(f"The server answered with HTTP status {status}.", status=status)
    return DisconnectCause(what, cause=cause, advice=SESSION_ADVICE, draining=True)
