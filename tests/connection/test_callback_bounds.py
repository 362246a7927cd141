"""Callbacks that hang, floods of requests and notifications, and callbacks that disconnect their own server."""

from __future__ import annotations

import gc
import json
import re
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from helpers.callbacks import ANSWERS, TOOLS, WORDS, Listener, asking, each_question, on_each_wire, said
from helpers.calls import Outcome
from helpers.common import connection_of, eventually
from helpers.stdio import NEVER, program
from mcp_pool import CallTimeout, ClientCallbacks, ConnectionLost, ConnectionStatus, Failed, MCPPool
from mcp_pool.connection.dispatcher import MAX_REQUESTS
from mcp_pool.transports.channel import MAX_OPEN_SERVER_REQUESTS, Channel
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream

if TYPE_CHECKING:
    from loguru import Message

    from mcp_pool.connection.dispatcher import CallbackDispatcher

BOUND = 15.0
"""Seconds for what must end, on a slow machine too."""


QUESTIONS = """
import json, sys
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        info = {"name": "questions", "version": "1"}
        say(id=message["id"], result={"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": info})
    elif method == "notifications/initialized":
        break
    elif "id" in message:
        say(id=message["id"], error={"code": -32601, "message": "no such method"})
number = 0
while True:
    number += 1
    say(id=f"q{number}", method="ping")
"""
"""Does the handshake, then sends requests for ever without reading."""


class Hanging:
    """A callback that hangs until it is released, and records its calls."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.items: list[Any] = []
        self.ended = 0
        self.release = anyio.Event()

    async def __call__(self, *arguments: Any) -> Any:
        """Hang."""
        self.items.append(arguments[-1])
        try:
            await self.release.wait()
        finally:
            self.ended += 1
        return self.answer


def dispatcher_of(pool: MCPPool) -> CallbackDispatcher:
    """The dispatcher of the server `s`."""
    return connection_of(pool, "s").dispatcher


@each_question
@on_each_wire
async def test_a_callback_that_hangs_delays_only_the_request_it_serves(wire: str, kind: str) -> None:
    hanging, asks = Hanging(), Outcome()
    spec = asking(wire, callbacks=Listener().callbacks(**{kind: hanging}))
    async with MCPPool({"s": spec, "other": asking(wire)}) as pool, anyio.create_task_group() as group:
        group.start_soon(asks.of, pool.call_tool, f"s__{TOOLS[kind]}")
        await eventually(lambda: hanging.items)
        for other in TOOLS.keys() - {kind}:
            assert WORDS[other] in await said(pool, TOOLS[other])
        await said(pool, "capabilities", "other")
        with pytest.raises(CallTimeout):
            await pool.call_tool(f"s__{TOOLS[kind]}", timeout=0.1)  # whether it has reached the callback by then or not
        assert (asks.ended.is_set(), pool.server("s").generation) == (False, 1)
        group.cancel_scope.cancel()
    assert hanging.ended == len(hanging.items)


@on_each_wire
async def test_a_notification_callback_that_hangs_delays_no_call(wire: str) -> None:
    hanging = Hanging()
    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(message=hanging))}) as pool:
        with anyio.fail_after(BOUND):
            for _ in range(3):
                await said(pool, "tell", arguments={"count": 5})
            for kind, tool in TOOLS.items():
                assert WORDS[kind] in await said(pool, tool)
        assert len(hanging.items) == 1


@on_each_wire
@pytest.mark.parametrize("end", ["restart", "block"])
async def test_callbacks_that_hang_are_cancelled_with_their_connection(wire: str, end: str) -> None:
    asked, told, asks = Hanging(), Hanging(), Outcome()
    callbacks = Listener().callbacks(elicitation=asked, logging=told)
    async with anyio.create_task_group() as group:
        with anyio.fail_after(BOUND):
            async with MCPPool({"s": asking(wire, callbacks=callbacks)}) as pool:
                await said(pool, "tell", arguments={"count": 3})
                group.start_soon(asks.of, pool.call_tool, "s__person")
                await eventually(lambda: asked.items and told.items)
                if end == "restart":
                    await pool.server("s").restart()
                    await eventually(lambda: (asked.ended, told.ended) == (1, 1))
    assert (asked.ended, told.ended) == (1, 1)
    assert isinstance(asks.error, ConnectionLost)


async def test_requests_beyond_the_limit_get_an_error_and_later_ones_are_served(
    record_logs: list[Message],
) -> None:
    hanging, first = Hanging(ANSWERS["elicitation"]), Outcome()
    spec = asking("legacy stdio", callbacks=Listener().callbacks(elicitation=hanging))
    many = {"method": "elicitation/create", "count": MAX_REQUESTS + 8}
    async with MCPPool({"s": spec}) as pool:
        with anyio.fail_after(BOUND):
            refused = json.loads(await said(pool, "ask", arguments={**many, "enough": 8}))
        assert [answer["error"]["message"] for answer in refused] == [f"more than {MAX_REQUESTS} requests at once"] * 8
        assert len(hanging.items) == MAX_REQUESTS
        assert sum("requests rejected because" in line for line in record_logs) == 1
        async with anyio.create_task_group() as group:
            roots = {"method": "roots/list", "count": 1}
            group.start_soon(first.of, lambda: said(pool, "ask", arguments=roots))
            await first.ended.wait()
            assert json.loads(first.value)[0]["error"]["message"].startswith("more than")
            hanging.release.set()
        await eventually(lambda: hanging.ended == MAX_REQUESTS)
        answers = json.loads(await said(pool, "ask", arguments={**many, "count": MAX_REQUESTS}))
        assert answers == [{"action": "accept", "content": {"name": "Ann"}}] * MAX_REQUESTS
        assert pool.server("s").generation == 1


async def test_a_server_that_keeps_sending_requests_without_accepting_answers_is_lost_before_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 200
    monkeypatch.setattr("mcp_pool.transports.channel.MAX_OPEN_SERVER_REQUESTS", limit)
    async with MCPPool({"other": asking("legacy stdio")}) as pool:
        tasks = len(anyio.get_running_tasks())
        with anyio.fail_after(BOUND):
            pool.add("s", program(QUESTIONS, restart=NEVER, close_timeout=0.5))
            most = tasks
            while not isinstance(pool.server("s").state, Failed):
                most = max(most, len(anyio.get_running_tasks()))
                await anyio.sleep(0.01)  # checking all tasks more often would leave no time to run them
        assert "without accepting the answers" in str(pool.server("s").last_error)
        assert tasks < most < tasks + limit + 100
        assert await said(pool, "capabilities", "other") == "{}"


@pytest.mark.parametrize("settled", ["answered", "taken back"])
async def test_answered_requests_do_not_count_and_a_reused_id_counts_again(settled: str) -> None:
    channel = Channel(tracked=True)
    asks, to_client = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    to_server, answers = anyio.create_memory_object_stream[Outgoing](1)
    with asks, to_client, to_server, answers:
        reader, writer = TrackedReadStream(to_client, channel), TrackedWriteStream(to_server, channel)

        async def hear(message: JSONRPCMessage) -> None:
            await asks.send(SessionMessage(message))
            await reader.receive()

        async def settle(request_id: int) -> None:
            if settled == "answered":
                answer = JSONRPCResponse(jsonrpc="2.0", id=request_id, result={})
                await writer.send(SessionMessage(answer))
                await answers.receive()
            else:
                taken_back = {"requestId": str(request_id), "reason": "no more"}
                await hear(JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=taken_back))

        for _ in range(MAX_OPEN_SERVER_REQUESTS):
            await hear(JSONRPCRequest(jsonrpc="2.0", id=7, method="ping"))
        await settle(7)
        await settle(8)  # no such request was sent
        await hear(JSONRPCRequest(jsonrpc="2.0", id=7, method="ping"))
        assert channel.disconnect_cause is None
        await hear(JSONRPCRequest(jsonrpc="2.0", id=7, method="ping"))
        assert channel.disconnect_cause is not None


async def test_too_many_requests_in_one_answer_end_that_call_only() -> None:
    hanging, one = Hanging(), Outcome()
    spec = asking("modern stdio", callbacks=Listener().callbacks(elicitation=hanging))
    async with MCPPool({"s": spec}) as pool:
        many = {"method": "elicitation/create", "count": MAX_REQUESTS + 1}
        with anyio.fail_after(BOUND):
            await one.of(pool.call_tool, "s__ask", many)
        assert isinstance(one.error, MCPError)
        assert "requests at once" in str(one.error)
        assert hanging.ended == len(hanging.items)
        assert WORDS["sampling"] in await said(pool, "model")


@pytest.mark.parametrize("wire", ["legacy stdio", "modern stdio", "modern in process"])
async def test_a_flood_of_notifications_for_a_hanging_callback_keeps_memory_and_tasks_flat(
    wire: str, record_logs: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are dropped, the log says how many, and the newest arrive in order."""
    hanging, batch, limit = Hanging(), 1000, 100
    monkeypatch.setattr("mcp_pool.connection.dispatcher.MAX_QUEUED", limit)
    async with MCPPool({"s": asking(wire, callbacks=ClientCallbacks(logging=hanging))}) as pool:

        async def flood() -> tuple[int, int]:
            await said(pool, "tell", arguments={"count": batch})
            await eventually(lambda: dispatcher_of(pool)._queue[-1].args[0].data == str(batch - 1))
            await anyio.wait_all_tasks_blocked()
            gc.collect()
            return len(anyio.get_running_tasks()), len(gc.get_objects())

        tasks, objects = await flood()
        assert len(dispatcher_of(pool)._queue) == limit
        more_tasks, more_objects = await flood()
        assert len(dispatcher_of(pool)._queue) == limit
        assert more_tasks <= tasks
        assert more_objects - objects < limit  # otherwise each notification would be split into several
        hanging.release.set()
        await eventually(lambda: len(hanging.items) == 1 + limit)
        kept = [int(item.data) for item in hanging.items]
        assert kept == [0, *range(batch - limit, batch)]
    told = [line for line in record_logs if "notifications dropped" in line]
    assert 1 <= len(told) <= 3
    assert sum(int(re.search(r"too slow: (\d+)", line)[1]) for line in told) == 2 * batch - 1 - limit


async def test_a_callback_that_fails_repeatedly_does_not_fill_the_log(record_logs: list[Message]) -> None:
    failed = list[int]()

    async def fail(params: Any) -> None:
        failed.append(params.data)
        raise ValueError

    async with MCPPool({"s": asking("legacy stdio", callbacks=ClientCallbacks(logging=fail))}) as pool:
        await said(pool, "tell", arguments={"count": 500})
        await eventually(lambda: len(failed) == 500)
    assert 1 <= sum("callback failures" in line for line in record_logs) <= 3


@on_each_wire
@pytest.mark.parametrize(
    ("caller", "end"),
    [
        ("elicitation", "disconnect"),
        ("elicitation", "close_all"),
        ("message", "disconnect"),
        ("message", "close_all"),
        ("message", "cancel"),
    ],
)
async def test_a_callback_that_disconnects_its_own_server_does_not_block_the_disconnect(
    wire: str, caller: str, end: str
) -> None:
    begun = anyio.Event()

    async def finish(*_: Any) -> Any:
        begun.set()
        if end == "disconnect":
            await pool.disconnect("s", drain=0)
        elif end == "close_all":
            await pool.close_all()
        else:
            pool.cancel()
        return ANSWERS["elicitation"]

    call = Outcome()
    async with anyio.create_task_group() as group:
        with anyio.fail_after(BOUND):
            async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(**{caller: finish}))}) as pool:
                tool, arguments = ("person", {}) if caller == "elicitation" else ("tell", {"count": 3})
                group.start_soon(call.of, pool.call_tool, f"s__{tool}", arguments)
                await begun.wait()
                await eventually(lambda: pool.get_status("s") is not ConnectionStatus.CONNECTED)
                await eventually(lambda: not pool.servers)
                await pool.connect("s", asking(wire))  # the pool still works
                assert end != "cancel"
    assert isinstance(call.error, ConnectionLost) or (caller == "message" and call.error is None)
