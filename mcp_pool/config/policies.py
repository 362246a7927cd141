"""When to restart a server, and when to probe it."""

from __future__ import annotations

from typing import final

import attrs

from mcp_pool.config.validation import count_problems, is_count, is_number, reject


@final
@attrs.frozen(kw_only=True)
class RestartPolicy:
    """When a lost or failed connection is tried again.

    The wait before the n-th restart in a row is exponential back-off with jitter (the formula is that of
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, with the random part limited to a fraction)::

        ceiling = min(max_delay, initial_delay * multiplier ** (n - 1))
        wait    = ceiling * (1 - jitter * chance)        0 <= chance < 1, all times in seconds

    so a wait is never longer than `max_delay`, and servers that failed together do not return together.
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
    """Seconds that a connection must have stayed open for earlier restarts to be forgotten."""
    max_restarts: int | None = None
    """Automatic reconnects stop at the first loss after this many restarts without a stable time; None: never."""

    @classmethod
    def never(cls) -> RestartPolicy:
        """Return the policy whose automatic reconnects stop at the first loss."""
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


@final
@attrs.frozen(kw_only=True)
class HealthCheck:
    """When a silent server is probed, and when it is considered lost.

    It is probed when nothing has arrived from it for `interval`, by `ping`, or by `server/discover` on the modern
    protocol, which has no `ping`. Anything that arrives is activity: a message, an answer under any HTTP status, or a
    status below 500. A server that has died silently is noticed after `interval + failure_threshold * timeout` seconds.
    """

    interval: float = 30.0
    """Seconds of silence after which a server is probed."""
    timeout: float = 10.0
    """Seconds that a probe waits for activity."""
    failure_threshold: int = 2
    """How many probes in a row must fail for the connection to be considered lost."""

    def __attrs_post_init__(self) -> None:
        problems = [
            (name, f"must be a number above 0, not {value!r}")
            for name, value in (("interval", self.interval), ("timeout", self.timeout))
            if not is_number(value) or value <= 0
        ]
        problems += count_problems("failure_threshold", self.failure_threshold)
        reject("HealthCheck", problems)
