"""Decides what follows a lost connection or a failed attempt: a pure function without a clock, randomness or state."""

from __future__ import annotations

from typing import final

import attrs

from mcp_pool.config.policies import RestartPolicy


@final
@attrs.frozen
class Retry:
    """The server is retried."""

    after: float
    """Seconds to wait first."""
    restarts: int
    """How many restarts in a row this will make."""


def decide(
    policy: RestartPolicy, *, restarts: int, uptime: float, chance: float, retry_after: float = 0.0
) -> Retry | None:
    """Decide what follows a lost connection or a failed attempt.

    Args:
        policy: The server's policy.
        restarts: How many restarts in a row came before this failure.
        uptime: How many seconds the connection was open; 0 if it never was.
        chance: A random number, 0 <= chance < 1.
        retry_after: How many seconds the server asked to wait.

    Returns:
        When to try again; None if automatic reconnects stop.
    """
    if uptime >= policy.stable_after and uptime > 0:
        restarts = 0
    if policy.max_restarts is not None and restarts >= policy.max_restarts:
        return None
    return Retry(after=max(policy.delay(restarts, chance), min(retry_after, policy.max_delay)), restarts=restarts + 1)


def retries_at_once(policy: RestartPolicy, *, exit_status: int | None, in_flight: int, elapsed: float) -> bool:
    """Decide whether a server whose process has exited is retried without waiting.

    Exiting with status 0 while no request was in flight is how servers leave that have been idle for a while.

    Args:
        policy: The server's policy.
        exit_status: The exit status; None if it is unknown.
        in_flight: How many calls were in flight.
        elapsed: How many seconds ago a retry of this server last did not wait; infinity if it always has. At most one
            per `stable_after` does not, or a server that exits again and again would never be backed off from.
    """
    return exit_status == 0 and not in_flight and elapsed >= policy.stable_after
