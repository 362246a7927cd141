"""How a call ended: from what the SDK raised and what the wire knows to the error that tells the truth."""

from __future__ import annotations

from typing import final

import anyio
import attrs
from mcp import MCPError
from mcp.client import InputRequiredRoundsExceededError
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from mcp_pool.clock import CallClock
from mcp_pool.errors import BadAnswer, CallTimeout, ConfigError, ConnectionLost, HttpStatus
from mcp_pool.guard import text_of
from mcp_pool.redaction import Redactor
from mcp_pool.transports.link import CallRecord, Failure, Link, Loss


@final
@attrs.frozen
class Diagnosis:
    """Makes the errors of one connection."""

    server_id: str
    """The server's id in the pool."""
    generation: int
    """The number of the connection."""
    redactor: Redactor = attrs.field(repr=False)
    """Removes the server's secrets."""
    link: Link = attrs.field(repr=False)
    """The wire."""

    def lost(self, record: CallRecord | None = None, cause: BaseException | None = None) -> ConnectionLost:
        """Return the error that tells why the connection is down.

        Args:
            record: The call that it ended; None when it is told of the connection itself.
            cause: What the SDK raised.
        """
        loss = self.link.loss or Loss("stopped answering")
        sent = record is not None and record.sent > 0
        message = f"Server {self.server_id!r} {loss.what} (connection {self.generation})"
        if record is not None:
            message += f" under a call, which {'may have' if sent else 'has not'} run"
        message += "."
        if loss.advice:
            message += f" {loss.advice}"
        if loss.last_words:
            message += f" Its last words on standard error: {loss.last_words}"
        return ConnectionLost(
            self.redactor.text(message),
            server_id=self.server_id,
            generation=self.generation,
            phase="call",
            cause=self.redactor.error(loss.cause or cause),
            may_have_run=sent,
            exit_status=loss.exit_status,
            last_words=loss.last_words,
        )

    def cut_short(self, record: CallRecord, what: str, clock: CallClock) -> BaseException:
        """Say why the scope of a call was cancelled.

        Args:
            record: What the wire knows of the call.
            what: The call in words.
            clock: Its bounds.
        """
        loss = self.link.loss
        if loss is not None and not (loss.draining and anyio.current_time() >= clock.scope.deadline):
            return self.lost(record)
        self.link.doubt()
        told = "The server was told" if record.sent else "It was not sent yet"
        message = (
            f"Server {self.server_id!r}: {what} {clock.reason()}. {told}, the connection stays in use; "
            "give the call more time, or see why the server is slow."
        )
        return CallTimeout(
            self.redactor.text(message),
            server_id=self.server_id,
            generation=self.generation,
            may_have_run=record.sent > 0,
        )

    def explain(self, error: BaseException, record: CallRecord, what: str, *, answered: bool) -> BaseException:
        """Turn what the SDK raised into what happened.

        Args:
            error: What it raised.
            record: What the wire knows of the call.
            what: The call in words.
            answered: Whether `error` is the server's own answer.
        """
        if record.failure is not None and (record.sent or self.link.loss is None):
            return self._failed(record.failure, record, what)
        if answered:
            return error
        if isinstance(error, MCPError) or self.link.loss is not None:
            return self.lost(record, error)
        if isinstance(error, PydanticSerializationError | UnicodeError | ValidationError) and not record.sent:
            return ConfigError(
                f"server {self.server_id!r}: arguments of {what} cannot be sent as JSON: "
                f"{self.redactor.text(_words(error))}. Nothing was sent.",
                server_id=self.server_id,
                field="arguments",
            )
        broken = isinstance(error, ValidationError | RuntimeError)
        if broken and not isinstance(error, InputRequiredRoundsExceededError):
            return BadAnswer(
                f"Server {self.server_id!r} answered {what} with a result that breaks the protocol or the tool's own "
                f"schema: {self.redactor.text(_words(error))}. The call ran; the server has to be mended.",
                server_id=self.server_id,
                generation=self.generation,
                phase="call",
                cause=self.redactor.error(error),
                may_have_run=True,
            )
        return error

    def _failed(self, failure: Failure, record: CallRecord, what: str) -> Exception:
        """Say why a call got no answer although the wire stands."""
        message = self.redactor.text(f"Server {self.server_id!r} {failure.what}, under {what}.")
        fate = "may have run" if record.sent else "has not run"
        if failure.status is not None:
            return HttpStatus(
                f"{message} It {fate}. See the server's log.",
                server_id=self.server_id,
                generation=self.generation,
                phase="call",
                status=failure.status,
                may_have_run=record.sent > 0,
            )
        if failure.malformed:
            return BadAnswer(
                f"{message} It {fate}. The server has to be mended.",
                server_id=self.server_id,
                generation=self.generation,
                phase="call",
                cause=self.redactor.error(failure.cause),
                may_have_run=record.sent > 0,
            )
        standing = "" if self.link.loss is not None else "; the connection stays in use"
        return ConnectionLost(
            f"{message} It {fate}{standing}.",
            server_id=self.server_id,
            generation=self.generation,
            phase="call",
            cause=self.redactor.error(failure.cause),
            may_have_run=record.sent > 0,
        )


def _words(error: BaseException) -> str:
    """Say what is wrong with a result, without showing the result."""
    if not isinstance(error, ValidationError):
        return text_of(error).rstrip(".")
    details = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details[:5])
