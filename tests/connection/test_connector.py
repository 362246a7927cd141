"""Edge cases between parts: closed connections, streams without a reader, and failures hidden by others."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import TaskGroup
from mcp import Client, MCPError
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest

from helpers.common import connection_of, eventually
from helpers.fake import listed as all_listed
from mcp_pool import (
    DEFAULT,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    StdioServer,
)
from mcp_pool._shared.guard import ForeignCancellation
from mcp_pool.connection.connect import Connector
from mcp_pool.connection.listing import Listings
from mcp_pool.supervision.supervisor import Supervisor
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause
from mcp_pool.transports.http.client import Outbox
from mcp_pool.transports.stdio.exit import _signal_name
from mcp_pool.transports.tracked_streams import Outgoing
from servers import misbehaving
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from loguru import Message

    from mcp_pool.connection.dispatcher import CallbackDispatcher


async def test_an_error_of_the_body_takes_precedence_over_one_of_a_connection_which_is_logged(
    monkeypatch: pytest.MonkeyPatch, record_logs: list[Message]
) -> None:
    run = Supervisor.run

    async def break_down(supervisor: Supervisor) -> None:
        await run(supervisor)
        raise RuntimeError("broken")

    monkeypatch.setattr(Supervisor, "run", break_down)
    with pytest.raises(ValueError, match="of the body"):
        async with MCPPool():
            raise ValueError("of the body")
    assert any("RuntimeError" in message for message in record_logs)


async def test_a_closed_connection_refuses_calls_and_says_why() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        connection = connection_of(pool, "s")
        assert repr(connection) == "<Connection 's' generation 1, 0 calls, open>"
        await pool.disconnect("s")
        assert repr(connection) == "<Connection 's' generation 1, 0 calls, was disconnected>"
        with pytest.raises(ConnectionLost) as caught:
            await connection.call(pytest.fail, what="a call", timeout=DEFAULT, started_at=anyio.current_time())
        assert not caught.value.may_have_run


async def test_an_error_raised_as_the_connection_closes_is_reported_as_a_lost_connection() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        connection = connection_of(pool, "s")

        async def end_and_fail(_progress: Any) -> None:
            connection.close("was ended")
            raise MCPError(code=1, message="of nobody")

        with pytest.raises(ConnectionLost, match="was ended"):
            await connection.call(end_and_fail, what="a call", timeout=DEFAULT, started_at=anyio.current_time())


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    """The channels of all attempts, in order."""
    made: list[Channel] = []

    def make(*arguments: Any) -> Channel:
        made.append(Channel(*arguments))
        return made[-1]

    monkeypatch.setattr("mcp_pool.connection.connect.Channel", make)
    return made


async def test_a_wire_that_goes_down_after_the_listing_is_a_failed_attempt(
    links: list[Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def list_and_lose(*_arguments: Any, **_options: Any) -> Listings:
        links[-1].mark_lost(DisconnectCause("fell over"))
        return all_listed()

    monkeypatch.setattr("mcp_pool.connection.connect.list_all", list_and_lose)
    async with MCPPool() as pool:
        with pytest.raises(ConnectError, match="fell over"):
            await pool.connect("s", InProcessServer(calculator()))


async def test_a_wire_that_goes_down_because_of_the_timeout_is_reported_as_a_timeout(
    links: list[Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang_and_lose(*_arguments: Any, **_options: Any) -> Listings:
        try:
            await anyio.sleep_forever()
        finally:
            links[-1].mark_lost(DisconnectCause("fell over"))

    monkeypatch.setattr("mcp_pool.connection.connect.list_all", hang_and_lose)
    async with MCPPool(connect_timeout=0.2) as pool:
        with pytest.raises(ConnectTimeout, match=r"connect_timeout=0\.2"):
            await pool.connect("s", InProcessServer(calculator()))


async def test_an_attempt_that_is_cancelled_at_the_moment_its_listing_ends_does_not_open_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would close it: the block could never be left."""
    listed, may_return = anyio.Event(), anyio.Event()
    opened: list[tuple[object, ...]] = []

    def open_one(*arguments: object) -> None:
        opened.append(arguments)
        raise RuntimeError("no connection may be opened any more")

    async def list_and_wait(*_arguments: Any, **_options: Any) -> Listings:
        with anyio.CancelScope(shield=True):  # as if the last response had just arrived
            listed.set()
            await may_return.wait()
        return all_listed()

    monkeypatch.setattr("mcp_pool.connection.connect.list_all", list_and_wait)
    monkeypatch.setattr("mcp_pool.connection.connect.Connection", open_one)
    async with MCPPool() as pool:
        pool.add("s", InProcessServer(calculator()))
        await listed.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(pool.close_all)
            await anyio.wait_all_tasks_blocked()
            may_return.set()
    assert not opened


class Gone:
    """A stream that nobody reads any more."""

    async def send(self, _item: SessionMessage, /) -> None:
        raise anyio.BrokenResourceError

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("of_a_call", [True, False])
async def test_a_message_that_the_transport_did_not_receive_was_not_sent(of_a_call: bool) -> None:
    record = CallRecord(Channel(tracked=True), anyio.CancelScope(), requests_sent=0) if of_a_call else None
    message = SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call"))
    with pytest.raises(anyio.BrokenResourceError):
        await Outbox(Gone()).send(Outgoing(message, b"{}", record))
    assert record is None or record.requests_sent == 0


async def test_blank_lines_on_standard_output_are_ignored() -> None:
    command, arguments = misbehaving()
    async with MCPPool() as pool:
        await pool.connect("s", StdioServer("sh", ["-c", 'echo; exec "$@"', "sh", command, *arguments]))
        assert connection_of(pool, "s").channel.unreadable.total == 0


def test_a_signal_without_a_name_is_reported_by_its_number() -> None:
    assert _signal_name(9) == "SIGKILL (9)"
    assert _signal_name(200) == "signal 200"


async def test_a_connection_whose_client_is_cancelled_from_within_is_lost_and_reconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a native cancellation in one of the SDK's tasks, which silently cancels its task group."""
    make, groups = Connector._client, list[TaskGroup]()

    @asynccontextmanager
    async def client(connector: Connector, dispatcher: CallbackDispatcher) -> AsyncGenerator[Client]:
        async with anyio.create_task_group() as group, make(connector, dispatcher) as made:
            groups.append(group)
            yield made

    monkeypatch.setattr(Connector, "_client", client)
    async with MCPPool({"s": InProcessServer(calculator())}, restart=RestartPolicy(initial_delay=0.01)) as pool:
        groups[0].cancel_scope.cancel()
        await eventually(lambda: pool.server("s").generation == 2)
        error = pool.server("s").last_error
        assert isinstance(error, ConnectionLost)
        assert "failed unexpectedly" in error.reason
        assert isinstance(error.cause, ForeignCancellation)


async def test_an_attempt_whose_client_is_cancelled_from_within_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hold(connector: Connector, _scope: anyio.CancelScope) -> None:
        async with anyio.create_task_group() as group:
            group.cancel_scope.cancel()

    monkeypatch.setattr(Connector, "_hold", hold)
    async with MCPPool() as pool:
        with pytest.raises(ConnectError, match="a cancellation that nobody had requested"):
            await pool.connect("s", InProcessServer(calculator()))
