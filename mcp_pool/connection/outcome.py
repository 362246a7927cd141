"""How a call ended: from what the SDK raised and what the channel knows to the error that tells the truth."""

from __future__ import annotations

from typing import Final, final

import anyio
import attrs
from mcp import MCPError
from mcp.client import InputRequiredRoundsExceededError
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from mcp_pool._shared.guard import words_of
from mcp_pool.config.target import Target
from mcp_pool.connection.calls_in_flight import CallDeadline
from mcp_pool.errors import (
    CallTimeout,
    ConfigError,
    ConnectionLost,
    ErrorContext,
    HttpStatusError,
    InvalidResponse,
)
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure

BROKEN_RESULT: Final = (ValidationError, RuntimeError)
"""What the SDK raises for a result that breaks the protocol or the output schema of its tool."""


@final
@attrs.frozen(eq=False, repr=False)
class Outcome:
    """Makes the errors of one connection."""

    target: Target
    """The server."""
    generation: int
    """The number of the connection."""
    channel: Channel
    """The channel."""

    def lost(self, record: CallRecord | None = None, cause: BaseException | None = None) -> ConnectionLost:
        """Return the error that tells why the connection is closed.

        Args:
            record: The call that it ended; None when it is told of the connection itself.
            cause: What the SDK raised.
        """
        why = self.channel.disconnect_cause or DisconnectCause("stopped answering")
        reason = f"Server {self.target.server_id!r} {why.what} (connection {self.generation})"
        if record is not None:
            reason += f" during a call that {'may have' if record.sent else 'has not'} run"
        return ConnectionLost(
            self._clean(f"{reason}{why.words}."),
            **self._context(cause if why.cause is None else why.cause, why.advice),
            may_have_run=record is not None and record.sent > 0,
            exit_status=why.exit_status,
            stderr_tail=why.stderr_tail,
        )

    def cut_short(self, record: CallRecord, what: str, deadline: CallDeadline) -> BaseException:
        """Say why the scope of a call was cancelled.

        Args:
            record: What the channel knows of the call.
            what: The call in words.
            deadline: Its bounds.
        """
        why = self.channel.disconnect_cause
        if why is not None and not (why.draining and anyio.current_time() >= deadline.scope.deadline):
            return self.lost(record)
        self.channel.suspect()
        fate = "The server was told to cancel it." if record.sent else "It was not sent yet."
        return CallTimeout(
            self._clean(f"Server {self.target.server_id!r}: {what} {deadline.reason()}. {fate}"),
            **self._context(advice="Give the call more time, or find out why the server is slow."),
            may_have_run=record.sent > 0,
        )

    def explain(self, error: BaseException, record: CallRecord, what: str, *, answered: bool) -> BaseException:
        """Turn what the SDK raised into what happened.

        Args:
            error: What it raised.
            record: What the channel knows of the call.
            what: The call in words.
            answered: Whether `error` is the server's own answer.
        """
        lost = self.channel.disconnect_cause is not None
        if record.failure is not None and (record.sent or not lost):
            return self._failed(record.failure, record, what)
        if answered:
            return error
        if isinstance(error, MCPError) or lost:
            return self.lost(record, error)
        if isinstance(error, PydanticSerializationError | UnicodeError | ValidationError) and not record.sent:
            problem = f"cannot be sent as JSON{self._clean(words_of(error))}"
            reason = f"server {self.target.server_id!r}: arguments of {what} {problem}. Nothing was sent."
            return ConfigError(reason, server_id=self.target.server_id, problems=[("arguments", problem)])
        if isinstance(error, BROKEN_RESULT) and not isinstance(error, InputRequiredRoundsExceededError):
            return InvalidResponse(
                f"Server {self.target.server_id!r} answered {what} with a result that breaks the protocol or the "
                f"tool's own schema{self._clean(words_of(error))}. The call has run.",
                **self._context(error, "Fix the server."),
                may_have_run=True,
            )
        return error

    def _failed(self, failure: Failure, record: CallRecord, what: str) -> Exception:
        """Say why a call got no answer although the channel is up."""
        may_have_run = record.sent > 0
        fate = "may have run" if may_have_run else "has not run"
        why = f"{failure.what} during {what}, which {fate}{words_of(failure.cause)}"
        reason = self._clean(f"Server {self.target.server_id!r} {why}.")
        if failure.status is not None:
            from mcp_pool.transports.http.handshake_errors import advice_for  # noqa: PLC0415  # only where one failed

            context = self._context(advice=advice_for(failure))
            return HttpStatusError(reason, **context, status=failure.status, may_have_run=may_have_run)
        if failure.malformed:
            return InvalidResponse(reason, **self._context(failure.cause, "Fix the server."), may_have_run=may_have_run)
        if self.channel.disconnect_cause is None:
            reason += " The connection stays in use."
        return ConnectionLost(reason, **self._context(failure.cause), may_have_run=may_have_run)

    def _context(self, cause: BaseException | None = None, advice: str = "") -> ErrorContext:
        return {
            "advice": advice,
            "server_id": self.target.server_id,
            "generation": self.generation,
            "phase": "call",
            "cause": self.target.redactor.error(cause),
        }

    def _clean(self, text: str) -> str:
        return self.target.redactor.text(text)
