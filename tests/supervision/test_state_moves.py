"""The states of a server, the status of each, and the transitions between them."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import attrs
import pytest

from helpers.common import scripted
from mcp_pool import (
    BackingOff,
    Closing,
    ConnectError,
    Connecting,
    ConnectionLost,
    ConnectionStatus,
    Failed,
    InProcessServer,
    MCPPool,
    Ready,
    RestartPolicy,
    StdioServer,
)
from mcp_pool.config.settings import Settings
from mcp_pool.config.target import Target
from mcp_pool.supervision.counters import Counters
from mcp_pool.supervision.events import Broadcast
from mcp_pool.supervision.registry import Registry
from mcp_pool.supervision.row import Row, View
from mcp_pool.supervision.state import LEGAL_MOVES, State
from servers.in_process import calculator

ERROR = ConnectError("It failed.")
WHEN: dict[str, Any] = {"attempt": 1, "generation": 1, "since": 0.0}
STATES: dict[type[State], State] = {
    Connecting: Connecting(**WHEN),
    Ready: Ready(**WHEN),
    Closing: Closing(**WHEN),
    BackingOff: BackingOff(**WHEN, error=ERROR, next_retry_at=1.0),
    Failed: Failed(**WHEN, error=ERROR),
}
STATUSES = {
    Connecting: ConnectionStatus.CONNECTING,
    Ready: ConnectionStatus.CONNECTED,
    Closing: ConnectionStatus.DISCONNECTED,
    BackingOff: ConnectionStatus.ERROR,
    Failed: ConnectionStatus.ERROR,
}
MOVES = {
    (Connecting, Ready),
    (Connecting, BackingOff),
    (Connecting, Failed),
    (Connecting, Closing),
    (Ready, Connecting),
    (Ready, BackingOff),
    (Ready, Failed),
    (Ready, Closing),
    (BackingOff, BackingOff),
    (BackingOff, Connecting),
    (BackingOff, Closing),
    (Failed, Failed),
    (Failed, Connecting),
    (Failed, Closing),
}
"""All transitions that make sense: a connection is open only after an attempt, and `Closing` is final."""

SETTINGS = Settings(
    connect_timeout=None,
    open_timeout=None,
    wait_timeout=None,
    call_timeout=None,
    max_call_time=None,
    close_timeout=1,
    restart=RestartPolicy(),
    health=None,
    max_connecting=16,
    launch_limits={},
    callbacks=None,
)


def row_in(state: type[State]) -> Row:
    """A row of a server in this state."""
    spec = StdioServer("program")
    registry = Registry(Broadcast(), Counters())
    row = registry.admit(Target.of(SETTINGS, "s", spec), persistent=True, predecessor=None)
    row.view = View(STATES[state])
    return row


def pairs(*, legal: bool) -> list[Any]:
    """All pairs of states that are, or are not, legal transitions, as parameters."""
    return [
        pytest.param(before, after, id=f"{before.__name__}-{after.__name__}")
        for before, after in product(STATES, repeat=2)
        if ((before, after) in MOVES) is legal
    ]


def test_all_states_are_listed_here() -> None:
    assert set(get_args(State)) == STATES.keys() == STATUSES.keys() == LEGAL_MOVES.keys()


@pytest.mark.parametrize("state", STATES)
def test_each_state_has_its_status(state: type[State]) -> None:
    assert state.status is STATUSES[state]


def test_the_statuses_have_the_documented_values() -> None:
    assert {status.name: status.value for status in ConnectionStatus} == {
        "DISCONNECTED": "disconnected",
        "CONNECTING": "connecting",
        "CONNECTED": "connected",
        "ERROR": "error",
    }


@pytest.mark.parametrize(("before", "after"), pairs(legal=True))
async def test_a_legal_transition_takes_effect_at_once(before: type[State], after: type[State]) -> None:
    row = row_in(before)
    row.move(STATES[after])
    assert row.state is STATES[after]


@pytest.mark.parametrize(("before", "after"), pairs(legal=False))
async def test_any_other_transition_is_an_error(before: type[State], after: type[State]) -> None:
    row = row_in(before)
    with pytest.raises(RuntimeError, match=f"'s'.*{after.__name__}"):
        row.move(STATES[after])
    assert row.state is STATES[before]


@pytest.mark.parametrize("state", STATES)
def test_a_state_is_immutable(state: type[State]) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        STATES[state].generation = 2


@pytest.mark.parametrize("state", [Ready, BackingOff, Failed])
async def test_a_request_for_an_attempt_starts_the_next_attempt(state: type[State]) -> None:
    row = row_in(state)
    assert row.request_attempt() == 2
    assert isinstance(row.state, Connecting)
    assert (row.state.attempt, row.state.generation) == (2, 1)


async def test_a_request_for_an_attempt_joins_a_running_one() -> None:
    row = row_in(Connecting)
    assert row.request_attempt() == 1
    assert row.state is STATES[Connecting]


async def test_a_closing_server_does_not_connect_again() -> None:
    row = row_in(Closing)
    row.request_attempt()
    assert row.state is STATES[Closing]


@pytest.mark.parametrize("state", STATES)
async def test_a_server_in_any_state_can_be_made_to_refuse_calls_even_twice(state: type[State]) -> None:
    row = row_in(state)
    row.refuse()
    row.refuse()
    assert isinstance(row.state, Closing)


async def test_the_last_error_is_remembered_after_a_reconnect() -> None:
    row = row_in(Connecting)
    for state in (BackingOff, Connecting, Ready):
        row.move(STATES[state])
    assert row.last_error is ERROR


async def test_a_real_server_goes_through_the_documented_states() -> None:
    never = scripted(restart=RestartPolicy.never())
    async with MCPPool() as pool:
        pool.add("s", never)
        server, seen = pool.server("s"), [type(pool.server("s").state)]
        await pool.wait_ready("s")
        seen.append(type(server.state))
        with pytest.raises(ConnectionLost):
            await server.call_tool("crash")
        seen.append(type(server.state))
        await server.restart()
        seen.append(type(server.state))
        await pool.disconnect("s")
        assert server.state is None
    assert seen == [Connecting, Ready, Failed, Ready]


async def test_a_snapshot_names_the_state() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        snapshot = pool.snapshot().servers["s"]
        assert (snapshot.state, snapshot.status) == ("Ready", ConnectionStatus.CONNECTED)
