"""What reads return: statuses, counts, the mapping of current servers and their handles."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import eventually, scripted
from helpers.fake import FAKE, Life, fake_wire
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
    StatusChanged,
    UnknownServer,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Iterator

A_WHILE = RestartPolicy(initial_delay=1000, max_delay=1000)


def test_the_values_of_the_status_are_lower_case_words() -> None:
    assert {status.name: status.value for status in ConnectionStatus} == {
        "DISCONNECTED": "disconnected",
        "CONNECTING": "connecting",
        "CONNECTED": "connected",
        "ERROR": "error",
    }


async def test_an_unknown_id_has_no_status() -> None:
    async with MCPPool() as pool:
        assert pool.get_status("one") is None
        assert pool.get_all_statuses() == {}


@pytest.mark.parametrize(
    ("life", "state", "status"),
    [
        (Life(handshake=1000), Connecting, ConnectionStatus.CONNECTING),
        (Life(), Ready, ConnectionStatus.CONNECTED),
        (Life(fails=True), BackingOff, ConnectionStatus.ERROR),
        (Life(is_final=True), Failed, ConnectionStatus.ERROR),
    ],
)
async def test_each_state_has_its_status(
    monkeypatch: pytest.MonkeyPatch, life: Life, state: type, status: ConnectionStatus
) -> None:
    fake_wire(monkeypatch, life)
    async with MCPPool(restart=A_WHILE) as pool:
        pool.add("one", FAKE)
        await anyio.wait_all_tasks_blocked()
        assert isinstance(pool.server("one").state, state)
        assert pool.get_status("one") is pool.server("one").status is status
        assert pool.get_all_statuses() == {"one": status}
        assert pool.connected_count == (status is ConnectionStatus.CONNECTED)


async def test_a_server_that_is_being_disconnected_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(closing=0.5))
    async with MCPPool() as pool, anyio.create_task_group() as group:
        await pool.connect("one", FAKE)
        group.start_soon(pool.disconnect, "one")
        await eventually(lambda: isinstance(pool.server("one").state, Closing))
        assert pool.get_status("one") is ConnectionStatus.DISCONNECTED
        assert pool.connected_count == 0
        assert "one" in pool.servers


async def test_a_server_that_has_left_is_disconnected_and_its_last_error_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = fake_wire(monkeypatch)
    async with MCPPool(restart=RestartPolicy(initial_delay=0)) as pool:
        await pool.connect("one", FAKE)
        handle = pool.server("one")
        wire.kill("one")
        await eventually(lambda: handle.generation == 2)
        await pool.disconnect("one")
        assert pool.get_status("one") is handle.status is ConnectionStatus.DISCONNECTED
        assert isinstance(handle.last_error, ConnectionLost)
        assert handle.state is None
        assert handle.generation == 0


async def test_a_server_that_could_not_be_connected_leaves_with_the_status_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_wire(monkeypatch, Life(handshake=0.05, fails=True))
    async with MCPPool() as pool, anyio.create_task_group() as group:

        async def connect() -> None:
            with pytest.raises(ConnectError):
                await pool.connect("one", FAKE)

        group.start_soon(connect)
        await eventually(lambda: "one" in pool.servers)
        handle = pool.server("one")
        await eventually(lambda: "one" not in pool.servers)
        assert pool.get_status("one") is handle.status is ConnectionStatus.ERROR
        assert isinstance(handle.last_error, ConnectError)


async def test_statuses_are_a_copy() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        statuses = pool.get_all_statuses()
        statuses["two"] = ConnectionStatus.ERROR
        del statuses["one"]
        assert pool.get_all_statuses() == {"one": ConnectionStatus.CONNECTED}


async def test_statuses_include_current_and_remembered_servers() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        await pool.connect("two", InProcessServer(calculator()))
        await pool.disconnect("one")
        assert pool.get_all_statuses() == {
            "one": ConnectionStatus.DISCONNECTED,
            "two": ConnectionStatus.CONNECTED,
        }


async def test_an_id_that_is_added_again_is_no_longer_remembered() -> None:
    async with MCPPool() as pool:
        config = InProcessServer(calculator())
        await pool.connect("one", config)
        await pool.disconnect("one")
        await pool.connect("one", config)
        assert pool.get_all_statuses() == {"one": ConnectionStatus.CONNECTED}


async def test_only_the_newest_servers_that_left_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_bounded_memory.py` checks the number, 1,024."""
    fake_wire(monkeypatch)
    monkeypatch.setattr("mcp_pool.supervision.registry.REMEMBERED_LIMIT", 5)
    async with MCPPool() as pool:
        for number in range(8):
            pool.add(str(number), FAKE)
            await pool.disconnect(str(number))
        assert list(pool.get_all_statuses()) == ["3", "4", "5", "6", "7"]
        assert pool.get_status("2") is None
        assert pool.get_status("3") is ConnectionStatus.DISCONNECTED


async def test_remembered_servers_are_forgotten_at_the_end_of_the_block() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        await pool.disconnect("one")
    assert pool.get_status("one") is None
    assert pool.get_all_statuses() == {}


async def test_connected_count_counts_connected_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    counts: list[int] = []

    def steps() -> Iterator[str]:
        for number in range(3):
            yield str(number)
            counts.append(pool.connected_count)

    async with MCPPool(restart=A_WHILE) as pool:
        for server_id in steps():
            await pool.connect(server_id, FAKE)
        wire.kill("0")
        counts.append(pool.connected_count)
        await pool.disconnect("1")
        counts.append(pool.connected_count)
        await pool.close_all()
        counts.append(pool.connected_count)
    assert counts == [1, 2, 3, 2, 1, 0]


async def test_a_server_known_to_be_lost_is_never_shown_as_connected() -> None:
    async with MCPPool(restart=A_WHILE) as pool:
        await pool.connect("one", scripted())
        with pytest.raises(ConnectionLost):
            await pool.call_tool("one__crash")
        assert pool.get_status("one") is ConnectionStatus.ERROR
        assert pool.connected_count == 0
        assert pool.snapshot().connected == 0


async def test_statuses_counts_and_events_agree_at_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """P11: when an event has arrived, the pool shows the state in the event or a later one."""
    wire = fake_wire(monkeypatch)
    seen: list[tuple[ConnectionStatus, ConnectionStatus | None]] = []

    async def watch() -> None:
        async with pool.events() as events:
            async for event in events:
                if isinstance(event, StatusChanged):
                    seen.append((event.status, pool.get_status("one")))

    async with MCPPool(restart=RestartPolicy(initial_delay=0.05)) as pool, anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        await pool.connect("one", FAKE)
        await anyio.wait_all_tasks_blocked()
        wire.kill("one")
        await eventually(lambda: pool.server("one").generation == 2)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert seen == [(status, status) for status, _ in seen]
    assert [status.value for status, _ in seen] == ["connected", "error", "connecting", "connected"]


async def test_servers_is_a_read_only_mapping_of_current_servers() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        pool.add("two", InProcessServer(calculator()))
        assert isinstance(pool.servers, MappingProxyType)
        assert {server_id: server.server_id for server_id, server in pool.servers.items()} == {
            "one": "one",
            "two": "two",
        }
        await pool.disconnect("one")
        assert set(pool.servers) == {"two"}


async def test_there_is_no_handle_on_a_server_that_is_not_in_the_pool() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        await pool.disconnect("one")
        for server_id in ("one", "two"):
            with pytest.raises(UnknownServer) as caught:
                pool.server(server_id)
            assert caught.value.server_id == server_id


async def test_a_handle_shows_the_server() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        handle = pool.server("one")
        assert (handle.server_id, handle.status, handle.generation) == ("one", ConnectionStatus.CONNECTED, 1)
        assert isinstance(handle.state, Ready)
        assert handle.last_error is None
        assert handle.info is not None
        assert (handle.info.name, handle.info.version) == ("calculator", "1.0")
        assert handle.info.capabilities.tools is not None
        assert handle.info.instructions is None
        assert handle.client is not None
        assert handle.info.protocol_version == handle.client.protocol_version
        assert {tool.name for tool in await handle.list_tools()} >= {"add", "echo"}
        assert repr(handle) == "<Server 'one' connected>"


async def test_a_handle_on_a_server_that_is_connecting_shows_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_wire(monkeypatch, Life(handshake=1000))
    async with MCPPool() as pool:
        pool.add("one", FAKE)
        handle = pool.server("one")
        assert handle.client is None
        assert handle.info is None
        assert handle.generation == 0


async def test_a_handle_refers_to_the_id_not_to_one_server() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        handle = pool.server("one")
        await pool.disconnect("one")
        assert repr(handle) == "<Server 'one' disconnected>"
        with pytest.raises(UnknownServer):
            await handle.call_tool("echo", {"text": "x"})
        await pool.connect("one", InProcessServer(calculator()))
        assert not (await handle.call_tool("echo", {"text": "x"})).is_error
