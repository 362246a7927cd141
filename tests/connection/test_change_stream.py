"""Streams of changes in virtual time: when they are opened again, and what a refusal is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp.client.subscriptions import SubscriptionLost
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, SubscriptionFilter

from helpers.clock import virtual_backends
from mcp_pool import RestartPolicy
from mcp_pool.connection.change_stream import MIN_DELAY, ChangeStream
from mcp_pool.transports.channel import Channel, DisconnectCause, Failure, current_call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

POLICY = RestartPolicy(initial_delay=1, multiplier=2, max_delay=8, jitter=0, stable_after=60)
REFUSED = Failure("rejected it", status=404)
BUSY, DOWN, GONE = Failure("is busy", status=429), Failure("is down", status=503), Failure("reset the connection")


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class Streams:
    """A client whose streams end as a script says: open for so many seconds, or failed before; the last one stays open."""

    def __init__(self, *script: float | Failure | None, tracked: bool = True, policy: RestartPolicy = POLICY) -> None:
        self.script = list(script)
        self.requested_at: list[float] = []
        self.missed: list[bool] = []
        self.refusals: list[Exception] = []
        self.probes = 0
        self.channel = Channel(tracked, lambda: None, self.probe)
        target: Any = SimpleNamespace(server_id="s", limits=SimpleNamespace(restart=policy))
        self.stream = ChangeStream(
            target, self.channel, {"tools_list_changed": True}, lambda _: None, self.opened, self.refusals.append
        )

    async def run(self, *, until: float) -> list[float]:
        """Let it run until a moment, and return when streams were requested."""
        begin = anyio.current_time()
        with anyio.move_on_after(until):
            await self.stream.run(SimpleNamespace(listen=self.listen))  # type: ignore[arg-type]
        return [at - begin for at in self.requested_at]

    def probe(self) -> None:
        """Count what would cause a probe."""
        self.probes += 1

    def opened(self, honored: SubscriptionFilter, missed: bool) -> None:
        """Record that a stream has opened."""
        assert honored.tools_list_changed
        self.missed.append(missed)

    @asynccontextmanager
    async def listen(self, *, tools_list_changed: bool) -> AsyncGenerator[Any]:
        """Play the next line of the script."""
        self.requested_at.append(anyio.current_time())
        turn = self.script.pop(0) if self.script else 1e9
        if turn is None or isinstance(turn, Failure):
            record = current_call.get()
            assert record is not None
            assert not record.is_call
            record.failure = turn
            error = ErrorData(code=INTERNAL_ERROR, message="no")
            if turn is not GONE:  # otherwise nothing has arrived
                record.answer = JSONRPCError(jsonrpc="2.0", id=1, error=error)
            raise MCPError.from_error_data(error)

        class Stream:
            honored = SubscriptionFilter(tools_list_changed=tools_list_changed)

            async def __aiter__(self) -> AsyncIterator[Any]:
                await anyio.sleep(turn)
                if turn % 2:  # abruptly; otherwise with the server's own graceful close
                    raise SubscriptionLost
                return
                yield

        yield Stream()


async def test_a_stream_that_ends_is_opened_again_with_back_off_and_causes_one_probe() -> None:
    streams = Streams(0, 1, 0, 1, 0)
    assert await streams.run(until=1000) == [0, 1, 4, 8, 17, 25]
    assert streams.missed == [False, True, True, True, True, True]
    assert streams.probes == 5
    assert not streams.refusals


async def test_the_back_off_starts_over_after_a_stream_that_stayed_open() -> None:
    streams = Streams(0, 1, 0, 60, 0)
    assert await streams.run(until=1000) == [0, 1, 4, 8, 69, 71]


async def test_streams_that_end_at_once_never_keep_the_program_busy() -> None:
    streams = Streams(*[0] * 100, policy=RestartPolicy(initial_delay=0))
    assert len(await streams.run(until=10)) <= 10 / MIN_DELAY + 1


@pytest.mark.parametrize("tracked", [True, False])
async def test_a_servers_own_error_is_final_for_the_connection(tracked: bool) -> None:
    streams = Streams(0, None, tracked=tracked)
    assert await streams.run(until=1000) == [0, 1]
    assert len(streams.refusals) == 1
    assert (streams.probes, streams.missed) == (1, [False])


async def test_a_client_error_is_a_refusal_and_an_outage_or_a_busy_server_is_not() -> None:
    streams = Streams(DOWN, BUSY, GONE, REFUSED)
    assert await streams.run(until=1000) == [0, 1, 3, 7]
    assert len(streams.refusals) == 1
    assert streams.stream.settled.is_set()


async def test_no_stream_is_opened_over_a_connection_that_is_lost() -> None:
    streams = Streams(0)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: streams.run(until=1000))
        await anyio.sleep(0.5)
        streams.channel.mark_lost(DisconnectCause("fell over"))
    assert len(streams.requested_at) == 1
    assert streams.stream.settled.is_set()
