"""Where a pool may be used: inside its block, in its event loop, and in the context of the task that opened it."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from mcp.server.mcpserver import MCPServer
from mcp_types import PromptReference

from helpers.common import eventually
from helpers.fake import FAKE, FakeWire, fake_wire
from mcp_pool import EventStream, InProcessServer, MCPPool, PoolClosed, RestartPolicy, Server
from servers.in_process import calculator, with_tools

if TYPE_CHECKING:
    from helpers.fake import Life
    from mcp_pool.connection.attempt import Attempt

REFERENCE = PromptReference(type="ref/prompt", name="p")


async def listen(pool: MCPPool) -> None:
    async with pool.events():
        pass


async def watch(pool: MCPPool) -> None:
    async with pool.watch_config(Path(__file__).parents[2] / "examples" / "servers.json"):
        pass


METHODS: dict[str, Callable[[MCPPool], Awaitable[object] | object]] = {
    "connect": lambda pool: pool.connect("one", FAKE),
    "add": lambda pool: pool.add("one", FAKE),
    "disconnect": lambda pool: pool.disconnect("one"),
    "replace": lambda pool: pool.replace("one", FAKE),
    "close_all": lambda pool: pool.close_all(),
    "server": lambda pool: pool.server("one"),
    "wait_ready": lambda pool: pool.wait_ready("one"),
    "call_tool": lambda pool: pool.call_tool("one__add"),
    "get_prompt": lambda pool: pool.get_prompt("one__p"),
    "read_resource": lambda pool: pool.read_resource("one", "a://b"),
    "complete": lambda pool: pool.complete("one", REFERENCE, {"name": "a", "value": "b"}),
    "subscribe": lambda pool: pool.subscribe("one", "a://b"),
    "apply": lambda pool: pool.apply({}),
    "watch_config": watch,
    "cancel": lambda pool: pool.cancel(),
    "events": listen,
}
"""Members that only the pool's event loop may use."""
READS: dict[str, Callable[[MCPPool], object]] = {
    "snapshot": lambda pool: pool.snapshot().servers,
    "get_status": lambda pool: pool.get_status("one"),
    "get_all_statuses": lambda pool: pool.get_all_statuses(),
    "connected_count": lambda pool: pool.connected_count,
    "servers": lambda pool: dict(pool.servers),
    "tools": lambda pool: dict(pool.tools),
    "prompts": lambda pool: dict(pool.prompts),
    "resources": lambda pool: dict(pool.resources),
    "resource_templates": lambda pool: dict(pool.resource_templates),
    "tools_digest": lambda pool: pool.tools_digest(),
}
"""Members that any thread may read."""
SERVER_METHODS: dict[str, Callable[[Server], Awaitable[object] | object]] = {
    "call_tool": lambda server: server.call_tool("add"),
    "get_prompt": lambda server: server.get_prompt("p"),
    "read_resource": lambda server: server.read_resource("a://b"),
    "complete": lambda server: server.complete(REFERENCE, {"name": "a", "value": "b"}),
    "list_tools": lambda server: server.list_tools(),
    "refresh": lambda server: server.refresh(),
    "restart": lambda server: server.restart(),
    "subscribe": lambda server: server.subscribe("a://b"),
    "approve": lambda server: server.approve("add", ""),
    "client": lambda server: server.client,
}
SERVER_READS: dict[str, Callable[[Server], object]] = {
    name: attrgetter(name)
    for name in ("server_id", "status", "state", "config", "generation", "last_error", "info", "held_tools")
}


@pytest.mark.parametrize(
    ("kind", "decided"),
    [(MCPPool, METHODS | READS), (Server, SERVER_METHODS | SERVER_READS), (EventStream, {})],
    ids=["MCPPool", "Server", "EventStream"],
)
def test_every_public_member_is_listed_as_usable_in_other_threads_or_not(
    kind: type, decided: dict[str, object]
) -> None:
    constructors = {"from_config"}
    assert {name for name in dir(kind) if not name.startswith("_")} - constructors == decided.keys()


async def use(user: Any, method: Callable[[Any], Awaitable[object] | object]) -> None:
    """Call a method of the pool or of a handle, sync or async."""
    outcome = method(user)
    if isinstance(outcome, Awaitable):
        await outcome


@pytest.mark.parametrize("method", METHODS)
async def test_before_and_after_the_block_methods_raise_pool_closed(method: str) -> None:
    pool = MCPPool()
    if method != "events":  # they may be opened before the block
        with pytest.raises(PoolClosed):
            await use(pool, METHODS[method])
    async with pool:
        pass
    with pytest.raises(PoolClosed):
        await use(pool, METHODS[method])


@pytest.mark.parametrize("method", SERVER_METHODS)
async def test_after_the_block_the_methods_of_a_handle_raise_pool_closed(method: str) -> None:
    async with MCPPool({"one": InProcessServer(calculator())}) as pool:
        handle = pool.server("one")
    if method == "client":
        assert handle.client is None
        return
    with pytest.raises(PoolClosed):
        await use(handle, SERVER_METHODS[method])


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


MESSAGE = r"another event loop or thread.*anyio\.from_thread.*portal"
ELSEWHERE = ["a thread", "asyncio", "trio"]


async def check_raises_elsewhere(where: str, user: object, method: Callable[[Any], Awaitable[object] | object]) -> None:
    """Check that a method raises at once in a thread without an event loop or in another event loop."""

    def in_a_thread() -> None:
        outcome = method(user)
        if isinstance(outcome, Awaitable):
            outcome.__await__().send(None)

    def in_another_loop() -> None:
        anyio.run(use, user, method, backend=where)

    with pytest.raises(RuntimeError, match=MESSAGE):
        await anyio.to_thread.run_sync(in_a_thread if where == "a thread" else in_another_loop)


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("method", METHODS)
async def test_methods_of_a_pool_raise_at_once_elsewhere(method: str, where: str) -> None:
    async with MCPPool() as pool:
        await check_raises_elsewhere(where, pool, METHODS[method])
        assert not pool.servers


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("method", SERVER_METHODS)
async def test_methods_of_a_handle_raise_at_once_elsewhere(method: str, where: str) -> None:
    async with MCPPool({"one": InProcessServer(calculator())}) as pool:
        await check_raises_elsewhere(where, pool.server("one"), SERVER_METHODS[method])
        assert (pool.server("one").generation, pool.snapshot().calls_failed) == (1, 0)


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_reading_events_raises_elsewhere(where: str) -> None:
    async with MCPPool() as pool, pool.events() as events:
        await check_raises_elsewhere(where, events, anext)


@pytest.mark.parametrize("where", ["asyncio", "trio"])
async def test_a_pool_does_not_open_in_a_different_event_loop_than_its_event_readers(where: str) -> None:
    pool = MCPPool()

    async def opened(pool: MCPPool) -> None:
        async with pool:
            pytest.fail("it opened")

    async with pool.events():
        await check_raises_elsewhere(where, pool, opened)


async def test_an_open_pool_cannot_be_opened_again_elsewhere() -> None:
    async def enter(pool: MCPPool) -> None:
        async with pool:
            pytest.fail("it opened twice")

    async with MCPPool() as pool:
        with pytest.raises(RuntimeError, match="already been entered"):
            await anyio.to_thread.run_sync(lambda: anyio.run(enter, pool))


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_reads_work_anywhere(where: str) -> None:
    async with MCPPool({"one": InProcessServer(calculator())}) as pool:
        handle = pool.server("one")

        def read() -> tuple[list[object], list[object], str]:
            return (
                [look(pool) for look in READS.values()],
                [look(handle) for look in SERVER_READS.values()],
                f"{pool} {handle}",
            )

        async def read_in_a_loop() -> object:
            return read()

        there = await anyio.to_thread.run_sync(
            read if where == "a thread" else lambda: anyio.run(read_in_a_loop, backend=where)
        )
        assert there == read()
        there = await anyio.to_thread.run_sync(pool.snapshot)
        assert there.time is None  # other threads have no access to the loop's clock
        assert there.timestamp > 0
        assert pool.snapshot().time == pytest.approx(anyio.current_time(), abs=60)


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
