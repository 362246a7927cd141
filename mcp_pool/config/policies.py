"""When to restart a server, and when to probe it."""

from __future__ import annotations

from typing import final

import attrs

from mcp_pool.config.validation import count_problems, is_count, is_number, reject


@final
@attrs.frozen(kw_only=True)
class RestartPolicy:
    """When to reconnect after a connection is lost or an attempt fails.

    The wait before the n-th restart in a row is exponential back-off with jitter (as in "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015, but only a fraction of the wait is random)::

        ceiling = min(max_delay, initial_delay * multiplier ** (n - 1))
        wait    = ceiling * (1 - jitter * chance)        0 <= chance < 1, all times in seconds

    So a wait never exceeds `max_delay`, and servers that failed together do not reconnect together. If a server asks
    for a longer wait, with `Retry-After` in a 429 or 503, that replaces it, up to `max_delay`.

    Attributes:
        initial_delay: Seconds before the first restart, before jitter. Default 0.5.
        multiplier: How much longer each further wait is; 1 or more. Default 2.
        max_delay: The longest wait in seconds. Default 60.
        jitter: The fraction of each wait that is random, from 0 to 1. Default 0.5.
        stable_after: Seconds that a connection must stay open before the count of restarts starts over. Default 60.
        max_restarts: Automatic reconnects stop at the first failure after this many restarts in a row. Default
            None: no limit.
    """

    initial_delay: float = 0.5
    multiplier: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.5
    stable_after: float = 60.0
    max_restarts: int | None = None

    @classmethod
    def never(cls) -> RestartPolicy:
        """Return a policy that never reconnects automatically."""
        return cls(max_restarts=0)

    def __attrs_post_init__(self) -> None:
        problems = [
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
            problems.append(("jitter", f"must be a fraction from 0 to 1, not {self.jitter!r}"))
        if self.max_restarts is not None and not is_count(self.max_restarts, least=0):
            problems.append(
                ("max_restarts", f"must be None or a whole number of at least 0, not {self.max_restarts!r}")
            )
        reject("RestartPolicy", problems)

    def delay(self, restarts: int, chance: float) -> float:
        """Return how many seconds to wait before the next restart.

        Args:
            restarts: How many restarts in a row came before it.
            chance: A random number, 0 <= chance < 1.
        """
        try:
            ceiling = min(self.max_delay, self.initial_delay * self.multiplier**restarts)
        except OverflowError:  # a float power overflows after some hundreds of restarts
            ceiling = self.max_delay if self.initial_delay else 0.0
        return ceiling * (1 - self.jitter * chance)


@final
@attrs.frozen(kw_only=True)
class HealthCheck:
    """When to probe a silent server, and when to consider its connection lost.

    A server is probed when nothing has arrived from it for `interval` seconds: by `ping`, or by `server/discover` on
    the modern protocol, which has no `ping`. A modern server behind a URL is probed only after a call has failed or
    timed out; an in-process server is never probed. Anything that arrives counts as activity: a message, a JSON-RPC
    response with any HTTP status, or any status below 500. A server that has silently stopped working is detected after
    `interval + failure_threshold * timeout` seconds.

    Attributes:
        interval: Seconds of silence after which a server is probed. Default 30.
        timeout: Seconds that a probe waits for any activity. Default 10.
        failure_threshold: How many probes in a row must fail before the connection is considered lost. Default 2.
    """

    interval: float = 30.0
    timeout: float = 10.0
    failure_threshold: int = 2

    def __attrs_post_init__(self) -> None:
        problems = [
            (name, f"must be a number above 0, not {value!r}")
            for name, value in (("interval", self.interval), ("timeout", self.timeout))
            if not is_number(value) or value <= 0
        ]
        problems += count_problems("failure_threshold", self.failure_threshold)
        reject("HealthCheck", problems)
