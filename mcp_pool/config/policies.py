"""Pure decisions: from what happened, what to do. No clock, no randomness, no state of their own."""

from __future__ import annotations

from typing import TypeAlias, final

import attrs

from mcp_pool.config.validation import is_count, is_number


@final
@attrs.frozen(kw_only=True)
class RestartPolicy:
    """When a lost or failed connection is tried again.

    The wait before the n-th restart in a row is exponential back-off with jitter (the formula is that of
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, with the random part limited to a fraction)::

        ceiling = min(max_delay, initial_delay * multiplier ** (n - 1))
        wait    = ceiling * (1 - jitter * chance)        0 <= chance < 1, all times in seconds

    so a wait is never longer than `max_delay`, and servers that fell together do not return together.
    """

    initial_delay: float = 0.5
    """Seconds before the first restart, before jitter."""
    multiplier: float = 2.0
    """How much longer each further wait is; 1 or more."""
    max_delay: float = 60.0
    """The longest wait in seconds."""
    jitter: float = 0.5
    """The fraction of each wait, 0 to 1, that is left to chance."""
    stable_after: float = 60.0
    """Seconds that a connection must have stayed up for earlier restarts to be forgotten."""
    max_restarts: int | None = None
    """Park at the first loss after this many restarts without a stable time in between; None: try for ever."""

    @classmethod
    def never(cls) -> RestartPolicy:
        """The policy that gives up at the first loss."""
        return cls(max_restarts=0)

    def problems(self) -> list[tuple[str, str]]:
        """Return what is wrong with these values, as pairs of a field's name and a sentence; usually nothing."""
        wrong = [
            (name, f"must be a number of at least {least}, not {value!r}")
            for name, value, least in (
                ("initial_delay", self.initial_delay, 0),
                ("multiplier", self.multiplier, 1),
                ("max_delay", self.max_delay, 0),
                ("stable_after", self.stable_after, 0),
            )
            if not is_number(value) or value < least
        ]
        if not is_number(self.jitter) or not 0 <= self.jitter <= 1:
            wrong.append(("jitter", f"must be a fraction from 0 to 1, not {self.jitter!r}"))
        if self.max_restarts is not None and not is_count(self.max_restarts, least=0):
            wrong.append(("max_restarts", f"must be None or a whole number of at least 0, not {self.max_restarts!r}"))
        return wrong


@final
@attrs.frozen(kw_only=True)
class HealthCheck:
    """When a server that says nothing is asked whether it is there, and when it is taken for dead.

    It is asked when nothing has arrived from it for `interval`, by a `ping`, or by `server/discover` where the protocol
    has no `ping` any more. Anything that arrives is life: a message, or an HTTP status below 500. A server that is
    dead without a word is found out after `interval + failure_threshold * timeout` seconds.
    """

    interval: float = 30.0
    """Seconds of silence after which a server is asked."""
    timeout: float = 10.0
    """Seconds to wait for a activity."""
    failure_threshold: int = 2
    """How many waits in vain, in a row, are death."""

    def problems(self) -> list[tuple[str, str]]:
        """Return what is wrong with these values, as pairs of a field's name and a sentence; usually nothing."""
        wrong = [
            (name, f"must be a number above 0, not {value!r}")
            for name, value in (("interval", self.interval), ("timeout", self.timeout))
            if not is_number(value) or value <= 0
        ]
        if not is_count(self.failure_threshold, least=1):
            wrong.append(("failure_threshold", f"must be a whole number of at least 1, not {self.failure_threshold!r}"))
        return wrong


@final
@attrs.frozen
class Restart:
    """Try again."""

    after: float
    """Seconds to wait first."""
    restarts: int
    """How many restarts in a row this makes."""


@final
@attrs.frozen
class Park:
    """Do not try again until somebody asks."""


Decision: TypeAlias = Restart | Park


def decide(policy: RestartPolicy, *, restarts: int, uptime: float, chance: float) -> Decision:
    """Decide what follows a lost or failed connection.

    Args:
        policy: The server's policy.
        restarts: How many restarts there were in a row, before this loss.
        uptime: Seconds for which the connection stood; 0 when it was never made.
        chance: A random number, 0 <= chance < 1.

    Returns:
        `Restart` with the wait in seconds, or `Park`.
    """
    if uptime >= policy.stable_after and uptime > 0:
        restarts = 0
    if policy.max_restarts is not None and restarts >= policy.max_restarts:
        return Park()
    return Restart(after=_ceiling(policy, restarts) * (1 - policy.jitter * chance), restarts=restarts + 1)


def _ceiling(policy: RestartPolicy, earlier: int) -> float:
    try:
        return min(policy.max_delay, policy.initial_delay * policy.multiplier**earlier)
    except OverflowError:  # a float power overflows after some hundreds of restarts
        return policy.max_delay if policy.initial_delay else 0.0
