"""Errors of the body and around it: which exception leaves the block, and that no other does."""

from __future__ import annotations

import gc
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.common import alive, eventually, scripted, started
from mcp_pool import ConnectionLost, ConnectionStatus, InProcessServer, MCPPool
from servers.in_process import calculator, raising_lifespan, with_tools

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class Mine(Exception):
    """A user-defined error."""


class Deep(BaseException):
    """An error that `except Exception` does not catch."""


class Falsy(Exception):
    """An error that is falsy, as an empty collection of problems might be."""

    def __bool__(self) -> bool:
        return False


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("mine"),
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration("mine"),
    "StopAsyncIteration": lambda: StopAsyncIteration("mine"),
    "BaseException": lambda: Deep("mine"),
    "falsy": Falsy,
    "group": lambda: ExceptionGroup("mine", [ValueError("one"), KeyError("two")]),
    "group of one": lambda: ExceptionGroup("mine", [ValueError("one")]),
    "group in a group": lambda: ExceptionGroup("mine", [ExceptionGroup("inner", [ValueError("one")])]),
    "base group": lambda: BaseExceptionGroup("mine", [Deep("one"), ValueError("two")]),
    "base group of an exit": lambda: BaseExceptionGroup("mine", [KeyboardInterrupt()]),
}
raised = pytest.mark.parametrize("make", RAISED.values(), ids=RAISED)
some_raised = pytest.mark.parametrize(
    "make", [RAISED[name] for name in ("ValueError", "KeyboardInterrupt", "falsy", "group")]
)


def chain(error: BaseException) -> list[BaseException]:
    """The error and the chain of its contexts; fails if the chain is a cycle."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        assert not any(link is other for other in links), "a cycle of contexts"
        links.append(link)
        link = link.__context__
    return links


@raised
async def test_an_error_of_the_body_leaves_the_block_as_the_same_object(make: Callable[[], BaseException]) -> None:
    error = make()
    with pytest.raises(type(error)) as caught:
        async with MCPPool({"calculator": InProcessServer(calculator())}):
            raise error
    assert caught.value is error
    assert not isinstance(error, BaseExceptionGroup) or error.exceptions == make_like(error).exceptions


def make_like(group: BaseExceptionGroup[Any]) -> BaseExceptionGroup[Any]:
    """Return an equal group: its exceptions are compared by identity."""
    return group.derive(group.exceptions)


@raised
async def test_an_error_of_the_body_keeps_its_cause_context_and_notes(
    make: Callable[[], BaseException],
) -> None:
    error, cause, context = make(), OSError("cause"), LookupError("context")
    error.__cause__, error.__context__ = cause, context
    error.add_note("a note")
    with pytest.raises(type(error)):
        async with MCPPool({"calculator": InProcessServer(calculator())}):
            raise error
    assert error.__cause__ is cause
    assert error.__context__ is context
    assert error.__notes__ == ["a note"]
    assert chain(error) == [error, context]


@some_raised
async def test_an_error_without_a_context_gets_none(make: Callable[[], BaseException]) -> None:
    error = make()
    with pytest.raises(type(error)):
        async with MCPPool({"server": scripted()}):
            raise error
    assert (error.__cause__, error.__context__) == (None, None)


async def test_an_error_that_replaces_a_cancellation_keeps_it_as_its_context() -> None:
    async with MCPPool() as pool:
        with pytest.raises(Mine) as caught:
            async with MCPPool() as inner:
                inner.cancel()
                try:
                    await anyio.sleep_forever()
                finally:
                    raise Mine
        assert isinstance(caught.value.__context__, anyio.get_cancelled_exc_class())
        chain(caught.value)
        await pool.close_all()


@raised
async def test_an_error_of_a_cancelled_body_leaves_the_block_as_the_same_object(
    make: Callable[[], BaseException],
) -> None:
    error = make()
    with pytest.raises(type(error)) as caught:
        async with MCPPool() as pool:
            pool.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            raise error
    assert caught.value is error


@some_raised
async def test_an_error_of_the_body_is_not_lost_when_the_block_is_cancelled_while_it_closes(
    make: Callable[[], BaseException], tmp_path
) -> None:
    error, server = make(), scripted("--stubborn", "--pid-file", tmp_path / "pids", close_timeout=0.3)
    with anyio.CancelScope() as outer:
        with pytest.raises(type(error)) as caught:
            async with MCPPool() as pool:
                await pool.connect("server", server)
                outer.deadline = anyio.current_time() + 0.1
                raise error
        assert caught.value is error
    assert outer.cancel_called
    assert not alive(tmp_path / "pids")


async def test_an_error_of_the_body_is_freed_when_nothing_refers_to_it() -> None:
    async def raise_in_a_block() -> weakref.ref[Mine]:
        error = Mine()
        try:
            async with MCPPool({"calculator": InProcessServer(calculator())}):
                raise error
        except Mine:
            return weakref.ref(error)
        finally:
            del error

    gc.disable()
    try:
        reference = await raise_in_a_block()
        assert reference() is None
    finally:
        gc.enable()


async def test_an_error_of_the_body_while_a_server_closes_leaves_nothing_behind(tmp_path) -> None:
    server = scripted("--stubborn", "--pid-file", tmp_path / "pids", close_timeout=0.3)
    results: list[bool] = []

    async def disconnect(pool: MCPPool) -> None:
        results.append(await pool.disconnect("server"))

    error = Mine()
    async with anyio.create_task_group() as group:
        with pytest.raises(Mine) as caught:
            async with MCPPool() as pool:
                await pool.connect("server", server)
                group.start_soon(disconnect, pool)
                await eventually(lambda: pool.get_status("server") is ConnectionStatus.DISCONNECTED)
                assert alive(tmp_path / "pids")
                raise error
        assert caught.value is error
        assert not alive(tmp_path / "pids")
    assert results == [True]


async def test_a_cancellation_while_stubborn_servers_close_is_delivered_after_they_have_ended(
    tmp_path,
) -> None:
    server = scripted("--stubborn", "--pid-file", tmp_path / "pids", close_timeout=0.3)
    went_on = False
    with anyio.CancelScope() as outer:
        async with MCPPool() as pool:
            for number in range(3):
                await pool.connect(f"server {number}", server)
            assert len(alive(tmp_path / "pids")) == 3
            outer.deadline = anyio.current_time()  # closing is the first to notice it: there is no await in between
        await anyio.lowlevel.checkpoint()
        went_on = True
    assert outer.cancelled_caught
    assert not went_on
    assert len(started(tmp_path / "pids")) == 3
    assert not alive(tmp_path / "pids")


async def test_an_error_passes_through_nested_blocks_which_end_from_the_inside_out() -> None:
    record: list[str] = []
    inner_record: list[str] = []
    error = Mine()
    with pytest.raises(Mine) as caught:
        async with MCPPool({"outer": InProcessServer(calculator(record))}) as outer:
            try:
                async with MCPPool({"inner": InProcessServer(calculator(inner_record))}):
                    raise error
            finally:
                assert inner_record == ["started", "stopped"]
                assert record == ["started"]
                assert (await outer.call_tool("outer__add", {"a": 1, "b": 2})).is_error is not True
    assert caught.value is error
    assert record == ["started", "stopped"]


async def test_cancelling_the_outer_of_two_pools_ends_both_and_cancelling_the_inner_ends_one() -> None:
    reached = []
    async with MCPPool() as outer:
        async with MCPPool() as inner:
            inner.cancel()
            await anyio.sleep_forever()
        reached.append("behind the inner")
        async with MCPPool():
            outer.cancel()
            await anyio.sleep_forever()
        reached.append("behind the second inner")
    reached.append("behind the outer")
    assert reached == ["behind the inner", "behind the outer"]


async def test_a_pool_cancelled_by_a_failing_sibling_task_adds_no_error_of_its_own(
    tmp_path,
) -> None:
    server = scripted("--pid-file", tmp_path / "pids")
    connected, error = anyio.Event(), Mine()

    async def hold_a_pool() -> None:
        async with MCPPool({"server": server}):
            connected.set()
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as group:
            group.start_soon(hold_a_pool)
            await connected.wait()
            raise error
    assert caught.value.exceptions == (error,)
    assert started(tmp_path / "pids")
    assert not alive(tmp_path / "pids")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_server_that_fails_while_it_is_cut_off_does_not_affect_the_others_or_the_body(mode: str) -> None:
    @asynccontextmanager
    async def raises_when_cut_off(_server: object) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            try:
                await anyio.sleep_forever()
            finally:
                raise Mine

    bad = InProcessServer(with_tools("bad", raises_when_cut_off), mode=mode, close_timeout=0.1)
    async with MCPPool({"good": InProcessServer(calculator()), "bad": bad}) as pool:
        assert pool.connected_count == 2
        assert await pool.disconnect("bad")
        await anyio.wait_all_tasks_blocked()
        assert pool.get_status("good") is ConnectionStatus.CONNECTED
        await pool.call_tool("good__add", {"a": 1, "b": 2})
        await pool.connect("bad", bad)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_server_that_fails_while_its_attempt_is_cancelled_does_not_affect_the_others_or_the_body(
    mode: str,
) -> None:
    connected = anyio.Event()

    @asynccontextmanager
    async def raises_when_cancelled(_server: object) -> AsyncGenerator[None, None]:
        connected.set()
        try:
            await anyio.sleep_forever()
            yield
        finally:
            raise Mine

    bad = InProcessServer(with_tools("bad", raises_when_cancelled), mode=mode)
    async with MCPPool({"good": InProcessServer(calculator())}) as pool:
        pool.add("bad", bad)
        await connected.wait()
        assert await pool.disconnect("bad")
        assert pool.get_status("bad") is ConnectionStatus.DISCONNECTED
        await pool.call_tool("good__add", {"a": 1, "b": 2})


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_base_exception_from_an_in_process_server_leaves_the_block(mode: str) -> None:
    error = Deep()
    with pytest.raises(Deep) as caught:
        async with MCPPool() as pool:
            pool.add("bad", InProcessServer(raising_lifespan(error=error), mode=mode))
            await anyio.sleep_forever()
    assert caught.value is error


async def test_the_end_of_the_block_does_not_wait_for_a_close_all_that_drains() -> None:
    async with anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(ConnectionLost, match="was closed with all servers"):
                await pool.call_tool("calculator__sleep", {"seconds": 3600}, timeout=None)

        async def close_gently() -> None:
            await pool.close_all(drain=15)

        with anyio.fail_after(8):
            async with MCPPool({"calculator": InProcessServer(calculator())}) as pool:
                group.start_soon(call)
                await eventually(lambda: pool.snapshot().calls_in_flight)
                group.start_soon(close_gently)
                await eventually(lambda: not pool.servers)


async def test_close_all_does_not_wait_for_an_earlier_one_that_drains() -> None:
    async with MCPPool({"calculator": InProcessServer(calculator())}) as pool, anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(ConnectionLost, match="was closed with all servers"):
                await pool.call_tool("calculator__sleep", {"seconds": 3600}, timeout=None)

        async def close_gently() -> None:
            await pool.close_all(drain=15)

        group.start_soon(call)
        await eventually(lambda: pool.snapshot().calls_in_flight)
        group.start_soon(close_gently)
        await eventually(lambda: not pool.servers)
        with anyio.fail_after(8):
            await pool.close_all()
