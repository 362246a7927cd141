"""The errors of calls, from the SDK's exception and what the wire knows about the call."""

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
    MCPPoolError,
)
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure

BROKEN_RESULT: Final = (ValidationError, RuntimeError)
"""What the SDK raises for a result that violates the protocol or the output schema of its tool."""


@final
@attrs.frozen(eq=False, repr=False)
class CallErrors:
    """Makes the errors of the calls on one connection."""

    target: Target
    """The server."""
    generation: int
    """The number of the connection."""
    channel: Channel
    """The channel."""

    def lost(self, record: CallRecord | None = None, cause: BaseException | None = None) -> ConnectionLost:
        """Return the error that says why the connection was closed.

        Args:
            record: The call that ended with it; None for the error of the connection itself.
            cause: The SDK's exception, used if the channel has no better cause.
        """
        why = self.channel.disconnect_cause or DisconnectCause("stopped answering")
        reason = f"Server {self.target.server_id!r} {why.what} (connection {self.generation})"
        if record is not None:
            reason += f" during a call that {'may have' if record.requests_sent else 'has not'} run"
        return ConnectionLost(
            self._clean(f"{reason}{why.words}."),
            **self._context(cause if why.cause is None else why.cause, why.advice),
            may_have_run=record is not None and record.requests_sent > 0,
            exit_status=why.exit_status,
            stderr_tail=why.stderr_tail,
        )

    def cancelled(self, record: CallRecord, what: str, deadline: CallDeadline) -> BaseException:
        """Return the error for a call whose scope was cancelled: by a loss, or by its deadline.

        Args:
            record: What the wire knows about the call.
            what: The call, as a noun phrase.
            deadline: Its deadline.
        """
        why = self.channel.disconnect_cause
        if why is not None and not (why.draining and anyio.current_time() >= deadline.at):
            return self.lost(record)
        self.channel.suspect()
        fate = "The server was told to cancel it." if record.requests_sent else "It had not been sent."
        advice = "Give the call more time, or find out why the server is slow."
        if sent := self.channel.unreadable.since(record.begun):
            advice += f" Since the call began, it {sent}."
        return CallTimeout(
            self._clean(f"Server {self.target.server_id!r}: {what} {deadline.reason()}. {fate}"),
            **self._context(advice=advice),
            may_have_run=record.requests_sent > 0,
        )

    def explain(self, error: BaseException, record: CallRecord, what: str, *, answered: bool) -> BaseException:
        """Return the error that says why a call failed; the SDK's own exception if it is right.

        Args:
            error: The SDK's exception.
            record: What the wire knows about the call.
            what: The call, as a noun phrase.
            answered: Whether `error` is the server's answer.
        """
        lost = self.channel.disconnect_cause is not None
        if record.failure is not None and (record.requests_sent or not lost):
            return self._failed(record.failure, record, what)
        if answered:
            return error
        if isinstance(error, MCPError) or lost:
            return self.lost(record, error)
        if isinstance(error, PydanticSerializationError | UnicodeError | ValidationError) and not record.requests_sent:
            problem = f"cannot be sent as JSON{self._clean(words_of(error))}"
            reason = f"server {self.target.server_id!r}: arguments of {what} {problem}. Nothing was sent."
            return ConfigError(reason, server_id=self.target.server_id, problems=[("arguments", problem)])
        if isinstance(error, BROKEN_RESULT) and not isinstance(error, InputRequiredRoundsExceededError):
            return InvalidResponse(
                f"Server {self.target.server_id!r} answered {what} with a result that violates the protocol or the "
                f"tool's own schema{self._clean(words_of(error))}. The call has run.",
                **self._context(error, "Fix the server."),
                may_have_run=True,
            )
        return error

    def _failed(self, failure: Failure, record: CallRecord, what: str) -> Exception:
        """Return the error for a call that failed on its own, without a loss of the connection."""
        may_have_run = record.requests_sent > 0
        fate = "may have run" if may_have_run else "has not run"
        words = "" if isinstance(failure.cause, MCPPoolError) else words_of(failure.cause)  # `what` already says it
        why = f"{failure.what} during {what}, which {fate}{words}"
        reason = self._clean(f"Server {self.target.server_id!r} {why}.")
        if failure.status is not None:
            from mcp_pool.transports.http.handshake_errors import (  # noqa: PLC0415  # loaded on failure only
                AUTH_STATUSES,
                advice_for,
                credentials_advice,
            )

            unauthorized = failure.status in AUTH_STATUSES
            advice = credentials_advice(self.target.spec) if unauthorized else advice_for(failure)
            context = self._context(advice=advice)
            error = HttpStatusError(reason, **context, status=failure.status, may_have_run=may_have_run)
            if isinstance(response := failure.cause, HttpStatusError):
                error.retry_after, error.excerpt = response.retry_after, response.excerpt
                error.authenticate = response.authenticate
            return error
        if failure.malformed:
            context = self._context(failure.cause, failure.advice or "Fix the server.")
            return InvalidResponse(reason, **context, may_have_run=may_have_run)
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
