"""Where a pool may be used: inside its block, in its event loop, and in the context of the task that opened it."""

from __future__ import annotations

import contextvars
import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from mcp.server.mcpserver import MCPServer
from mcp_types import PromptReference

from helpers.common import eventually
from helpers.fake import FAKE, FakeWire, fake_wire
from mcp_pool import ConnectionStatus, InProcessServer, MCPPool, PoolClosed, RestartPolicy
from servers.in_process import calculator, with_tools

if TYPE_CHECKING:
    from helpers.fake import Life
    from mcp_pool.connection.attempt import Attempt

REFERENCE = PromptReference(type="ref/prompt", name="p")


async def listen(pool: MCPPool) -> None:
    async with pool.events():
        pass


METHODS: dict[str, Callable[[MCPPool], Awaitable[object] | object]] = {
    "connect": lambda pool: pool.connect("one", FAKE),
    "add": lambda pool: pool.add("one", FAKE),
    "disconnect": lambda pool: pool.disconnect("one"),
    "close_all": lambda pool: pool.close_all(),
    "server": lambda pool: pool.server("one"),
    "wait_ready": lambda pool: pool.wait_ready("one"),
    "call_tool": lambda pool: pool.call_tool("one__add"),
    "read_resource": lambda pool: pool.read_resource("one", "a://b"),
    "complete": lambda pool: pool.complete("one", REFERENCE, {"name": "a", "value": "b"}),
    "cancel": lambda pool: pool.cancel(),
}


async def use(pool: MCPPool, method: str) -> None:
    """Call a method of the pool, sync or async."""
    outcome = METHODS[method](pool)
    if isinstance(outcome, Awaitable):
        await outcome


@pytest.mark.parametrize("method", METHODS)
async def test_before_and_after_the_block_methods_raise_pool_closed(method: str) -> None:
    pool = MCPPool()
    with pytest.raises(PoolClosed):
        await use(pool, method)
    async with pool:
        await pool.connect("one", InProcessServer(calculator()))
        handle = pool.server("one")
    with pytest.raises(PoolClosed):
        await use(pool, method)
    with pytest.raises(PoolClosed):
        await handle.call_tool("add")
    with pytest.raises(PoolClosed):
        await handle.restart()


async def test_before_and_after_the_block_reads_work_and_are_empty() -> None:
    pool = MCPPool({"one": InProcessServer(calculator())})

    def look() -> list[object]:
        return [
            dict(pool.servers),
            dict(pool.tools),
            pool.get_all_statuses(),
            pool.get_status("one"),
            pool.connected_count,
            dict(pool.snapshot().servers),
        ]

    assert look() == [{}, {}, {}, None, 0, {}]
    assert repr(pool) == "<MCPPool closed, 0 of 0 servers connected>"
    async with pool:
        assert repr(pool) == "<MCPPool open, 1 of 1 servers connected>"
    assert look() == [{}, {}, {}, None, 0, {}]
    assert repr(pool) == "<MCPPool closed, 0 of 0 servers connected>"


async def test_the_pool_is_already_closed_while_its_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = fake_wire(monkeypatch)
    seen: list[object] = []

    async def look(pool: MCPPool) -> None:
        await eventually(lambda: not wire.open)
        seen.append(dict(pool.servers))
        with pytest.raises(PoolClosed):
            pool.add("two", FAKE)

    async with anyio.create_task_group() as group, MCPPool() as pool:
        await pool.connect("one", FAKE)
        group.start_soon(look, pool)
    assert seen == [{}]


@pytest.mark.parametrize("method", METHODS)
async def test_methods_raise_at_once_in_a_thread_without_an_event_loop(method: str) -> None:
    async with MCPPool() as pool:

        def elsewhere() -> None:
            outcome = METHODS[method](pool)
            if isinstance(outcome, Awaitable):
                outcome.__await__().send(None)

        with pytest.raises(RuntimeError, match="another event loop or thread"):
            await anyio.to_thread.run_sync(elsewhere)
        assert not pool.servers


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("method", METHODS)
async def test_methods_raise_at_once_in_another_event_loop(method: str, backend: str) -> None:
    async with MCPPool() as pool:
        with pytest.raises(RuntimeError, match="another event loop or thread"):
            await anyio.to_thread.run_sync(lambda: anyio.run(use, pool, method, backend=backend))
        assert not pool.servers


async def test_a_handle_raises_at_once_in_another_event_loop() -> None:
    async with MCPPool() as pool:
        await pool.connect("one", InProcessServer(calculator()))
        handle = pool.server("one")

        async def elsewhere() -> None:
            for call in (lambda: handle.call_tool("add"), handle.restart, handle.refresh, handle.list_tools):
                with pytest.raises(RuntimeError, match="another event loop or thread"):
                    await call()

        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere))
        assert pool.connected_count == 1


async def test_reads_work_from_any_thread() -> None:
    async with MCPPool({"one": InProcessServer(calculator())}) as pool:
        handle, seen = pool.server("one"), dict[str, Any]()

        def read() -> None:
            seen["status"] = pool.get_status("one"), handle.status
            seen["statuses"] = pool.get_all_statuses()
            seen["tools"] = set(pool.tools)
            seen["count"] = pool.connected_count, len(pool.servers)
            seen["handle"] = handle.generation, handle.last_error, handle.config == InProcessServer, handle.info
            seen["snapshot"] = pool.snapshot()

        await anyio.to_thread.run_sync(read)
        assert seen["status"] == (ConnectionStatus.CONNECTED, ConnectionStatus.CONNECTED)
        assert seen["statuses"] == {"one": ConnectionStatus.CONNECTED}
        assert seen["tools"] == set(pool.tools)
        assert seen["count"] == (1, 1)
        assert seen["handle"] == (1, None, False, handle.info)
        assert seen["snapshot"].servers == pool.snapshot().servers
        assert seen["snapshot"].time is None  # other threads have no access to the loop's clock
        assert seen["snapshot"].timestamp > 0
        assert pool.snapshot().time == pytest.approx(anyio.current_time(), abs=60)


async def test_readers_in_other_threads_get_consistent_values_while_servers_come_and_go() -> None:
    stop, looks, errors = threading.Event(), list[int](), list[Exception]()

    def read(pool: MCPPool) -> None:
        while not stop.is_set():
            try:
                json.dumps(pool.snapshot().to_dict())
                looks.append(len(pool.servers) + len(pool.tools) + len(pool.get_all_statuses()))
            except Exception as error:
                errors.append(error)

    async with MCPPool() as pool, anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, read, pool)
        try:
            for number in range(50):
                await pool.connect(f"server {number % 7}", InProcessServer(calculator()))
                await pool.disconnect(f"server {(number + 3) % 7}")
        finally:
            stop.set()
    assert looks
    assert errors == []


identity: contextvars.ContextVar[str] = contextvars.ContextVar("identity", default="nobody")


async def connect_as(name: str, connect: Callable[[], Awaitable[Any]]) -> None:
    identity.set(name)
    await connect()


def identities(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeWire, list[str]]:
    """Install a fake wire that records the identity in the context of each attempt."""
    wire, seen = fake_wire(monkeypatch), list[str]()
    play = wire.script

    def note(attempt: Attempt) -> Life:
        seen.append(identity.get())
        return play(attempt)

    wire.script = note
    return wire, seen


async def test_children_run_in_the_context_in_which_the_block_was_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, seen = identities(monkeypatch)
    identity.set("opener")
    async with MCPPool(restart=RestartPolicy(initial_delay=0)) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(connect_as, "alice", lambda: pool.connect("one", FAKE))
        wire.kill("one")
        await eventually(lambda: pool.server("one").generation == 2)
        async with anyio.create_task_group() as group:
            group.start_soon(connect_as, "bob", lambda: pool.server("one").restart())
        async with anyio.create_task_group() as group:
            group.start_soon(connect_as, "carol", pool.close_all)
        async with anyio.create_task_group() as group:
            group.start_soon(connect_as, "dave", lambda: pool.connect("two", FAKE))
    assert seen == ["opener"] * 4


async def test_context_variables_set_by_a_child_are_not_visible_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, seen = identities(monkeypatch)
    note = wire.script

    def note_and_set(attempt: Attempt) -> Life:
        life = note(attempt)
        identity.set(attempt.target.server_id)
        return life

    wire.script = note_and_set
    identity.set("opener")
    async with MCPPool() as pool:
        await pool.connect("one", FAKE)
        await pool.connect("two", FAKE)
        assert identity.get() == "opener"
    assert seen == ["opener"] * 2


async def test_the_lifespan_of_an_in_process_server_does_not_see_its_callers_context() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        seen.append(identity.get())
        yield

    async with MCPPool() as pool:
        identity.set("caller")
        await pool.connect("one", InProcessServer(with_tools("one", lifespan), mode="legacy"))
        await pool.connect("two", InProcessServer(with_tools("two", lifespan)))
    assert seen == ["nobody"] * 2
