"""When a lost connection is retried: the formula, its bounds, and when reconnects stop."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pool import ConfigError, RestartPolicy
from mcp_pool.supervision.restart import Retry, decide, retries_at_once

NEAR = 1e-9
"""The relative error allowed for floats."""

policies = st.builds(
    RestartPolicy,
    initial_delay=st.floats(0, 1e3),
    multiplier=st.floats(1, 10),
    max_delay=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    stable_after=st.floats(0, 1e6),
)
chances = st.floats(0, 1, exclude_max=True)
rows = st.integers(0, 5000)


def wait(policy: RestartPolicy, restarts: int, *, uptime: float = 0.0, chance: float = 0.0) -> float:
    """The seconds until the next attempt, for a policy that does not stop."""
    decision = decide(policy, restarts=restarts, uptime=uptime, chance=chance)
    assert decision is not None
    return decision.after


def exact_ceiling(policy: RestartPolicy, restarts: int) -> Fraction:
    """The formula of the docstring in exact arithmetic, where nothing overflows."""
    grown = Fraction(policy.initial_delay) * Fraction(policy.multiplier) ** restarts
    return min(Fraction(policy.max_delay), grown)


def losses(policy: RestartPolicy, uptimes: list[float]) -> list[Retry | None]:
    """The decisions for this many losses in a row, until reconnects stop."""
    decisions: list[Retry | None] = []
    restarts = 0
    for uptime in uptimes:
        decision = decide(policy, restarts=restarts, uptime=uptime, chance=0.0)
        decisions.append(decision)
        if decision is None:
            break
        restarts = decision.restarts
    return decisions


def test_the_waits_double_from_half_a_second_to_a_minute() -> None:
    policy = RestartPolicy(jitter=0)
    assert [wait(policy, n) for n in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


@given(policies, st.integers(0, 200))
def test_without_jitter_the_wait_follows_the_formula(policy: RestartPolicy, restarts: int) -> None:
    assert wait(policy, restarts) == pytest.approx(float(exact_ceiling(policy, restarts)), rel=NEAR)


@given(policies, rows, chances)
def test_jitter_only_shortens_a_wait_and_by_no_more_than_its_fraction(
    policy: RestartPolicy, restarts: int, chance: float
) -> None:
    longest = wait(policy, restarts)
    assert longest * (1 - policy.jitter) * (1 - NEAR) <= wait(policy, restarts, chance=chance) <= longest


@given(policies, rows, chances)
def test_a_wait_is_never_negative_or_longer_than_max_delay(policy: RestartPolicy, restarts: int, chance: float) -> None:
    assert 0 <= wait(policy, restarts, chance=chance) <= policy.max_delay


@given(policies, rows, chances, st.floats(0, math.inf))
def test_a_wait_that_the_server_asked_for_replaces_a_shorter_one_up_to_max_delay(
    policy: RestartPolicy, restarts: int, chance: float, asked: float
) -> None:
    decision = decide(policy, restarts=restarts, uptime=0, chance=chance, retry_after=asked)
    usual = wait(policy, restarts, chance=chance)
    assert decision == Retry(after=max(usual, min(asked, policy.max_delay)), restarts=restarts + 1)


@given(policies, st.integers(0, 2000))
def test_each_wait_is_at_least_as_long_as_the_one_before(policy: RestartPolicy, restarts: int) -> None:
    assert wait(policy, restarts) <= wait(policy, restarts + 1)


def test_servers_that_failed_together_are_retried_at_different_times() -> None:
    policy = RestartPolicy()
    assert len({wait(policy, 3, chance=chance / 10) for chance in range(10)}) == 10


@pytest.mark.parametrize("multiplier", [2.0, 2, 1.5, 10**6])
def test_after_years_of_restarts_the_wait_is_max_delay(multiplier: float) -> None:
    policy = RestartPolicy(multiplier=multiplier, jitter=0)
    assert wait(policy, 100_000) == policy.max_delay


@pytest.mark.parametrize("restarts", [0, 1, 1023, 1024, 1025, 100_000])
def test_a_policy_without_delay_never_waits(restarts: int) -> None:
    assert wait(RestartPolicy(initial_delay=0), restarts) == 0


@given(policies, rows, chances)
def test_each_restart_is_counted(policy: RestartPolicy, restarts: int, chance: float) -> None:
    decision = decide(policy, restarts=restarts, uptime=0, chance=chance)
    assert decision is not None
    assert decision.restarts == restarts + 1


def test_a_stable_connection_resets_the_count_of_restarts() -> None:
    policy = RestartPolicy(stable_after=60, jitter=0)
    assert decide(policy, restarts=9, uptime=60, chance=0) == Retry(after=0.5, restarts=1)


def test_a_connection_that_was_almost_stable_does_not_reset_the_count() -> None:
    policy = RestartPolicy(stable_after=60, jitter=0)
    assert decide(policy, restarts=9, uptime=59.999, chance=0) == Retry(after=60, restarts=10)


def test_a_failed_attempt_never_counts_as_stable_even_with_a_stable_after_of_zero() -> None:
    policy = RestartPolicy(stable_after=0, jitter=0)
    assert decide(policy, restarts=2, uptime=0, chance=0) == Retry(after=2, restarts=3)


def test_every_connection_is_stable_with_a_stable_after_of_zero() -> None:
    policy = RestartPolicy(stable_after=0, jitter=0)
    assert decide(policy, restarts=2, uptime=0.001, chance=0) == Retry(after=0.5, restarts=1)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_reconnects_stop_at_the_first_failure_after_max_restarts(allowed: int) -> None:
    decisions = losses(RestartPolicy(max_restarts=allowed), [0.0] * 10)
    assert [decision is None for decision in decisions] == [False] * allowed + [True]


def test_a_stable_connection_in_between_allows_max_restarts_again() -> None:
    decisions = losses(RestartPolicy(max_restarts=2, stable_after=60), [0, 0, 100, 0, 0, 0])
    assert [decision is None for decision in decisions] == [False, False, False, False, True]


def test_without_a_limit_reconnects_never_stop() -> None:
    assert all(decision is not None for decision in losses(RestartPolicy(), [0.0] * 2000))


@given(st.integers(0, 100), st.floats(0, 1e9), chances)
def test_the_policy_never_stops_at_the_first_failure(restarts: int, uptime: float, chance: float) -> None:
    assert decide(RestartPolicy.never(), restarts=restarts, uptime=uptime, chance=chance) is None


@pytest.mark.parametrize(
    ("exit_status", "in_flight", "elapsed", "at_once"),
    [
        (0, 0, math.inf, True),
        (0, 0, 60.0, True),
        (0, 0, 59.9, False),
        (0, 1, math.inf, False),
        (1, 0, math.inf, False),
        (-15, 0, math.inf, False),
        (None, 0, math.inf, False),
    ],
)
def test_only_an_exit_with_status_0_while_idle_is_retried_at_once(
    exit_status: int | None, in_flight: int, elapsed: float, *, at_once: bool
) -> None:
    policy = RestartPolicy(stable_after=60)
    assert retries_at_once(policy, exit_status=exit_status, in_flight=in_flight, elapsed=elapsed) is at_once


def test_all_problems_of_a_policy_are_reported_by_field() -> None:
    with pytest.raises(ConfigError) as caught:
        RestartPolicy(initial_delay=-1, multiplier=0.5, max_delay=-1, jitter=1.5, stable_after=-1, max_restarts=-1)
    assert sorted(field for field, _ in caught.value.problems) == [
        "initial_delay",
        "jitter",
        "max_delay",
        "max_restarts",
        "multiplier",
        "stable_after",
    ]


@given(policies, rows, st.floats(0, 1e9), chances)
def test_the_same_history_leads_to_the_same_decision(
    policy: RestartPolicy, restarts: int, uptime: float, chance: float
) -> None:
    decisions = [decide(policy, restarts=restarts, uptime=uptime, chance=chance) for _ in range(2)]
    assert decisions[0] == decisions[1]
