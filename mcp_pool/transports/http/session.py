"""What answers and refusals tell about a session over HTTP. Decisions only: no I/O, no clock.

A server says by 404 that it does not know a session (MCP specification, Streamable HTTP, Session Management). Some say
it by another status, or by a JSON-RPC error that looks like the answer of a tool. From those alone nothing follows: the
call may have run, and the session may be in order. So they only raise a suspicion, which one `ping` settles: a server
that refuses a ping in the very same way refuses everything.
"""

from __future__ import annotations

from enum import Enum
from http import HTTPStatus
from typing import Final, final

import attrs
from mcp_types import METHOD_NOT_FOUND, JSONRPCError, JSONRPCResponse

from mcp_pool.errors import HttpStatusError
from mcp_pool.transports.channel import DisconnectCause

PING_METHOD: Final = "ping"
"""The method of a request that asks for nothing but an answer."""
SESSION_LOST: Final = "no longer knows the session"
"""What happened, where a server says so itself."""


class Finding(Enum):
    """What follows from how a server took a request of a session."""

    NOTHING = "nothing"
    """The session is in order as far as this request tells."""
    SUSPECT = "suspect"
    """The session may be lost: one `ping` is to tell."""
    LOST = "lost"
    """The session is lost, and the request has not run."""


@final
@attrs.frozen
class Refusal:
    """How a server refused a request. Two are equal when a client cannot tell them apart."""

    status: int
    """The HTTP status."""
    code: int | None = None
    """The code of the JSON-RPC error that came with it; None when there was none."""
    message: str = attrs.field(default="", repr=False)
    """The message of that error."""

    @classmethod
    def of(cls, status: int, said: JSONRPCResponse | JSONRPCError | None) -> Refusal:
        """Return the refusal that a response amounts to.

        Args:
            status: Its HTTP status.
            said: The JSON-RPC message in its body, if there was one.
        """
        if not isinstance(said, JSONRPCError):
            return cls(status)
        return cls(status, said.error.code, said.error.message)

    def is_confirmed_by(self, ping: Refusal) -> bool:
        """Tell whether a ping was refused in the very same way.

        A server without `ping` says "method not found" to it, as it does to any other method that it does not have.
        """
        return ping == self and ping.code != METHOD_NOT_FOUND


@final
@attrs.define(eq=False)
class SessionEvidence:
    """What the requests of one session have told about it so far."""

    _latest: Refusal | None = attrs.field(default=None, init=False)
    """The error that answered the latest call; None when it was answered otherwise."""
    _ping_answered: bool = attrs.field(default=False, init=False)
    """Whether a ping was ever answered."""

    def note_answer(self, error: Refusal | None, *, is_ping: bool) -> Finding:
        """Note an answer that bears the id of its request, and return what follows from it.

        Args:
            error: The error that it is, if it is one.
            is_ping: Whether the request was a `ping`, and no call.
        """
        if is_ping:
            self._ping_answered = True
            return Finding.NOTHING
        is_repeated = error is not None and error == self._latest
        self._latest = None if is_repeated else error
        return Finding.SUSPECT if is_repeated else Finding.NOTHING

    def note_refusal(self, refusal: Refusal, *, is_ping: bool, is_certain: bool) -> Finding:
        """Note a response with an error status and without an answer that bears the id, and return what follows.

        Args:
            refusal: What the response says.
            is_ping: Whether the request was a `ping`, and no call.
            is_certain: Whether the body shows that the answer is not in it.
        """
        if refusal.status == HTTPStatus.NOT_FOUND:
            return Finding.LOST if is_certain else Finding.SUSPECT
        if not is_suspicious(refusal.status):
            return Finding.NOTHING
        # Otherwise a gateway that lets no ping through would cost its server one session after the other.
        is_telling = not is_ping or refusal.code is not None or self._ping_answered
        return Finding.SUSPECT if is_telling else Finding.NOTHING


def is_suspicious(status: int) -> bool:
    """Tell whether a status may be about the session: 4xx, but not 429, which is about the load."""
    is_of_request = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return is_of_request and status != HTTPStatus.TOO_MANY_REQUESTS


def session_lost(status: int) -> DisconnectCause:
    """Return the loss of a session that its server says it does not know."""
    # Draining: calls that were refused likewise are to learn it themselves, as they may be sent again.
    cause = HttpStatusError(f"It answered with HTTP status {status}.", status=status)
    advice = "Check whether it was restarted."
    return DisconnectCause(SESSION_LOST, cause=cause, advice=advice, draining=True, unreachable=True)


def session_given_up(status: int) -> DisconnectCause:
    """Return the loss of a session whose server refuses a ping in the same way as a call."""
    # Not unreachable: it is told that the session has ended, in case that it knows it still.
    what = "appears to have lost the session: it refused a ping exactly as it refused the request before"
    cause = HttpStatusError(f"It answered with HTTP status {status}.", status=status)
    return DisconnectCause(what, cause=cause, advice="Check whether it was restarted.", draining=True)
