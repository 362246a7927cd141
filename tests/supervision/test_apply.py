"""Applying a set of servers: the pool then holds exactly these, and what is unchanged is not disturbed."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.common import eventually, scripted
from mcp_pool import (
    Changes,
    ConfigError,
    ConnectError,
    ConnectionStatus,
    InProcessServer,
    MCPPool,
    PoolClosed,
    ServerConfig,
)
from servers.in_process import calculator

SERVERS = {number: calculator() for number in range(3)}


def spec(number: int, **fields: Any) -> InProcessServer:
    """One of three specs that differ."""
    return InProcessServer(SERVERS[number], **fields)


async def test_servers_are_added_replaced_removed_and_left_alone() -> None:
    before = {"same": spec(0), "other": spec(0), "gone": spec(0)}
    async with MCPPool(before) as pool:
        changes = await pool.apply({"new": spec(1), "same": spec(0), "other": spec(1)})
        assert changes == Changes(added=("new",), replaced=("other",), removed=("gone",), unchanged=("same",))
        assert list(pool.servers) == ["same", "other", "new"]
        assert pool.connected_count == 3
        assert {key: server.generation for key, server in pool.servers.items()} == {"same": 1, "other": 1, "new": 1}
        assert pool.server("other").config == spec(1)


async def test_with_any_invalid_server_nothing_is_changed_and_one_error_names_them_all() -> None:
    async with MCPPool({"a": spec(0)}) as pool:
        wrong: dict[str, Any] = {"a": spec(1), "b": {"comand": "x"}, "c": 5, "": spec(2)}
        with pytest.raises(ConfigError, match="nothing was changed: 3 invalid servers: 'b', 'c', ''"):
            await pool.apply(wrong)
        not_a_mapping: Any = [spec(0)]
        with pytest.raises(ConfigError, match=r"servers must be a mapping, not a list\. Nothing was changed"):
            await pool.apply(not_a_mapping)
        with pytest.raises(ConfigError, match="apply: drain must be"):
            await pool.apply({}, drain=-1)
        assert pool.server("a").config == spec(0)
    with pytest.raises(PoolClosed):
        await pool.apply({})


async def test_a_server_that_does_not_connect_stays_under_its_restart_policy_and_stops_no_other() -> None:
    failing = scripted("--exit-at-start", 3, required=True)
    async with MCPPool({"a": spec(0)}) as pool:
        changes = await pool.apply({"a": failing, "b": failing, "c": spec(0)})
        assert changes == Changes(added=("b", "c"), replaced=("a",))
        assert [pool.get_status(key) for key in "ab"] == [ConnectionStatus.ERROR] * 2
        assert isinstance(pool.server("a").last_error, ConnectError)
        assert pool.get_status("c") is ConnectionStatus.CONNECTED


async def test_calls_in_flight_may_finish_on_servers_that_are_replaced_or_removed() -> None:
    async with MCPPool({"a": spec(0), "b": spec(0)}) as pool, anyio.create_task_group() as group:

        async def call(server_id: str) -> None:
            assert not (await pool.server(server_id).call_tool("sleep", {"seconds": 0.3})).is_error

        for server_id in "ab":
            group.start_soon(call, server_id)
        await eventually(lambda: sum(server.calls_in_flight for server in pool.snapshot().servers.values()) == 2)
        await pool.apply({"a": spec(1)}, drain=60)


async def test_a_server_that_somebody_disconnects_meanwhile_is_added_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MCPPool({"a": spec(0), "slow": spec(0)}) as pool:
        real = pool._supervisor.disconnect

        async def disconnect(server_id: str, drain: float) -> bool:
            await real("a", 0)
            return await real(server_id, drain)

        monkeypatch.setattr(type(pool._supervisor), "disconnect", lambda _, *arguments: disconnect(*arguments))
        await pool.apply({"a": spec(1)})
        await pool.wait_ready("a")
        assert pool.server("a").config == spec(1)


async def test_a_pool_that_is_closed_meanwhile_raises_one_plain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def disconnect(*_arguments: object) -> bool:
        raise PoolClosed("It was closed.")

    async with MCPPool({"a": spec(0), "b": spec(0)}) as pool:
        monkeypatch.setattr(type(pool._supervisor), "disconnect", disconnect)
        with pytest.raises(PoolClosed):
            await pool.apply({})


MAPS = st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2), max_size=4), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(maps=MAPS, at_once=st.booleans())
async def test_whatever_is_applied_while_calls_run_the_pool_holds_exactly_the_last(
    maps: list[dict[str, int]], at_once: bool
) -> None:
    counts = dict.fromkeys("abcd", 0)
    async with MCPPool() as pool:

        async def keep_calling(server_id: str) -> None:
            while True:
                await anyio.lowlevel.checkpoint()
                if server_id in pool.servers:
                    try:
                        await pool.server(server_id).call_tool("add", {"a": 1, "b": 1})
                    except Exception:  # it may be disconnected at any moment
                        continue
                    counts[server_id] += 1

        async with anyio.create_task_group() as calling:
            for server_id in counts:
                calling.start_soon(keep_calling, server_id)
            seen: dict[str, tuple[ServerConfig | None, int]] = {}
            if at_once:
                async with anyio.create_task_group() as group:
                    for chosen in maps:
                        group.start_soon(pool.apply, {key: spec(number) for key, number in chosen.items()})
            else:
                for chosen in maps:
                    kept = {key: id(pool.server(key).client) for key in pool.servers}
                    changes = await pool.apply({key: spec(number) for key, number in chosen.items()})
                    assert {key: server.config for key, server in pool.servers.items()} == {
                        key: spec(number) for key, number in chosen.items()
                    }
                    assert all(id(pool.server(key).client) == kept[key] for key in changes.unchanged)
                    assert all(pool.get_status(key) is ConnectionStatus.CONNECTED for key in chosen)
            calling.cancel_scope.cancel()
        assert not seen
        if at_once:
            held = {key: server.config for key, server in pool.servers.items()}
            assert held in [{key: spec(number) for key, number in chosen.items()} for chosen in maps]
