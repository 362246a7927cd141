"""One connection attempt, and why it failed: one `ConnectError` from the SDK's exception and the channel's state."""

from __future__ import annotations

import errno
from typing import Final, final

import attrs
from mcp import MCPError
from pydantic import ValidationError

from mcp_pool._shared.guard import ForeignCancellation, words_of
from mcp_pool.config.servers import StdioServer, UrlServer
from mcp_pool.config.target import Target
from mcp_pool.connection.discovery import Discovery
from mcp_pool.errors import ConfigError, ConnectError, ConnectTimeout, HttpStatusError, MCPPoolError, Phase
from mcp_pool.transports.channel import Channel

NOT_RETRYABLE: Final = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOEXEC, errno.ELOOP, errno.E2BIG}
)
"""Errors on starting a process that no retry can fix."""
REQUESTS: Final = {
    "spawn": "startup",
    "discover": "server/discover",
    "initialize": "initialize",
    "list": "tools/list",
    "call": "the handshake",
}
"""The name of each phase in messages."""
TRY_LEGACY: Final = ' If it is a legacy server that does not answer this request, set mode="legacy".'
"""Advice for a failure of `server/discover`, where the mode is not given."""
FIRST_PHASES: Final[dict[str, Phase]] = {"auto": "discover", "legacy": "initialize"}
"""The phase of the first request, by mode."""


@final
@attrs.frozen(kw_only=True, eq=False)
class Attempt:
    """One attempt to connect."""

    target: Target
    """The server."""
    number: int
    """The number of this attempt; the first is 1."""
    generation: int
    """The number that its connection will have."""
    mode: str
    """How the protocol is chosen, as in `mcp.Client`."""
    discovery: Discovery | None = None
    """What the server said about itself on an earlier connection, so that it need not be asked again."""

    def using(self, discovery: Discovery) -> Attempt:
        """Return the same attempt without `server/discover`."""
        return attrs.evolve(self, mode=discovery.protocol_version, discovery=discovery)

    def phase(self, channel: Channel) -> Phase:
        """Return the phase of this attempt on its channel.

        A process that has been started is in the handshake, even if it exits before the first request is sent.
        """
        if channel.phase != "spawn" or channel.process_id is None:
            return channel.phase
        return FIRST_PHASES.get(self.mode, "list")  # the other modes are versions that need no handshake


@final
@attrs.frozen(eq=False, repr=False)
class _Explanation:
    what: str
    """What happened, as a phrase that follows the server's name."""
    advice: str
    cause: BaseException | None
    retryable: bool = True


def explain(attempt: Attempt, channel: Channel, failure: BaseException | None, *, timed_out: bool) -> ConnectError:
    """Return the error that says why an attempt failed.

    Args:
        attempt: The attempt.
        channel: Its channel.
        failure: The exception from the SDK; None if there was none.
        timed_out: Whether `connect_timeout` expired.
    """
    target, lost = attempt.target, channel.disconnect_cause
    why = _timed_out(attempt, channel, failure) if timed_out else _failed(attempt, channel, failure)
    reason, advice = f"Server {target.server_id!r} (attempt {attempt.number}) {why.what}.", why.advice
    if sent := channel.unreadable.since(channel.unreadable.beginning):
        reason += f" It {sent}."
        advice += " Anything that is not JSON-RPC belongs on standard error."
    kind = ConnectTimeout if timed_out else ConnectError
    return kind(
        target.redactor.text(reason),
        advice=target.redactor.text(advice.strip()),
        server_id=target.server_id,
        generation=attempt.generation - 1,
        phase=attempt.phase(channel),
        attempt=attempt.number,
        cause=target.redactor.error(why.cause),
        retryable=why.retryable,
        exit_status=None if lost is None else lost.exit_status,
        stderr_tail=channel.stderr_tail() if lost is None else lost.stderr_tail,
    )


def _timed_out(attempt: Attempt, channel: Channel, failure: BaseException | None) -> _Explanation:
    phase = attempt.phase(channel)
    what = f"did not finish {REQUESTS[phase]} within connect_timeout={attempt.target.limits.connect_timeout} s"
    advice = "Find out what it is waiting for, or raise connect_timeout."
    if phase == "discover" and attempt.mode == "auto":
        advice += TRY_LEGACY
    return _Explanation(what, advice, failure)


def _failed(attempt: Attempt, channel: Channel, failure: BaseException | None) -> _Explanation:
    from mcp_pool.transports.http.environment import UnusableSetting  # noqa: PLC0415  # loaded on failure only
    from mcp_pool.transports.http.handshake_errors import (  # noqa: PLC0415  # loaded on failure only
        AUTH_STATUSES,
        credentials_advice,
        handshake_failed,
    )

    spec, request = attempt.target.spec, REQUESTS[attempt.phase(channel)]
    # The spec was valid when it was added; its borrowed client may have been closed since.
    wrong, advice = " ".join(next(spec.current_problems(), ())), "Call connect() with a new spec."
    if isinstance(failure, UnusableSetting):
        wrong, advice, failure = str(failure), failure.advice, failure.__cause__
    if wrong:
        return _Explanation(f"cannot be connected: {wrong}", advice, failure, retryable=False)
    lost, probe = channel.disconnect_cause, channel.inconclusive
    if lost is None and probe is not None and probe.status is not None and attempt.phase(channel) == "initialize":
        then = f"{type(failure).__name__}{words_of(failure)}"
        lost = handshake_failed(attrs.evolve(probe, what=f"{probe.what} during server/discover, then failed ({then})"))
    if lost is None and channel.failure is not None:
        lost = handshake_failed(channel.failure)
    if lost is not None:
        unauthorized = isinstance(lost.cause, HttpStatusError) and lost.cause.status in AUTH_STATUSES
        is_answerable = isinstance(spec, UrlServer) and not lost.unreachable
        may_be_legacy = is_answerable and attempt.mode == "auto" and attempt.phase(channel) == "discover"
        return _Explanation(
            f"{lost.what} during {request}{lost.words}",
            credentials_advice(spec) if unauthorized else lost.advice + TRY_LEGACY * may_be_legacy,
            failure if lost.cause is None else lost.cause,
            not unauthorized,
        )
    if isinstance(failure, OSError) and channel.process_id is None and isinstance(spec, StdioServer):
        retryable = failure.errno not in NOT_RETRYABLE
        what = f"could not be started: {failure.strerror or type(failure).__name__}"
        what += "" if failure.filename is None else f": {failure.filename!r}"
        fix = "Install the program, or correct command, cwd or PATH."
        advice = "Check the limits and the free resources of the system." if retryable else fix
        return _Explanation(what, advice, failure, retryable)
    if isinstance(failure, MCPError):
        what = f"answered {request} with error {failure.code}: {failure.message}"
        return _Explanation(what, "Correct the server's configuration, or fix the server.", failure)
    if isinstance(failure, MCPPoolError):
        retryable = not isinstance(failure, ConfigError)
        return _Explanation(f"did not list its tools: {failure.reason.rstrip('.')}", failure.advice, failure, retryable)
    failure = ForeignCancellation() if failure is None else failure
    fix = "Fix the server." if isinstance(failure, ValidationError) else "Fix what raised this."
    return _Explanation(f"failed during {request} with {type(failure).__name__}{words_of(failure)}", fix, failure)
