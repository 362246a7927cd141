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


def decide(policy: RestartPolicy, *, restarts: int, uptime: float, chance: float) -> Retry | None:
    """Decide what follows a lost connection or a failed attempt.

    Args:
        policy: The server's policy.
        restarts: How many restarts in a row came before this failure.
        uptime: How many seconds the connection was open; 0 if it never was.
        chance: A random number, 0 <= chance < 1.

    Returns:
        When to try again; None if automatic reconnects stop.
    """
    if uptime >= policy.stable_after and uptime > 0:
        restarts = 0
    if policy.max_restarts is not None and restarts >= policy.max_restarts:
        return None
    return Retry(after=_ceiling(policy, restarts) * (1 - policy.jitter * chance), restarts=restarts + 1)


def _ceiling(policy: RestartPolicy, earlier: int) -> float:
    try:
        return min(policy.max_delay, policy.initial_delay * policy.multiplier**earlier)
    except OverflowError:  # a float power overflows after some hundreds of restarts
        return policy.max_delay if policy.initial_delay else 0.0
