"""The progress function: what it receives, in which order, and what happens when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import Context, MCPServer

from helpers.calls import Outcome, answering, arrival, calls_of, with_ledger, words
from helpers.common import eventually
from mcp_pool import ConfigError, InProcessServer, MCPPool, StdioServer
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

Steps = list[tuple[float, float | None, str | None]]


def legacy_stdio() -> tuple[StdioServer, dict[str, int]]:
    return answering(), {"steps": 5}


def modern_stdio() -> tuple[StdioServer, dict[str, int]]:
    return answering("--modern"), {"steps": 5}


def legacy_in_process() -> tuple[InProcessServer, dict[str, int]]:
    return InProcessServer(calculator(), mode="legacy"), {"n": 5}


def modern_in_process() -> tuple[InProcessServer, dict[str, int]]:
    return InProcessServer(calculator()), {"n": 5}


Wire = "Callable[[], tuple[StdioServer | InProcessServer, dict[str, int]]]"
on_each_wire = pytest.mark.parametrize("wire", [legacy_stdio, modern_stdio, legacy_in_process, modern_in_process])
"""Servers whose tool `progress` reports five steps with these arguments, and then answers."""


@on_each_wire
async def test_each_progress_report_reaches_the_callback(wire: Wire) -> None:
    spec, arguments = wire()
    seen: Steps = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    async with MCPPool({"s": spec}) as pool:
        assert words(await pool.call_tool("s__progress", arguments, progress=note)) == "5 steps done"
        await eventually(lambda: len(seen) == 5)
    assert sorted(seen) == [(step, 5.0, f"step {step}") for step in range(1, 6)]


@on_each_wire
async def test_progress_is_delivered_in_order_and_one_report_at_a_time(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_pool.calls.progress.DELIVERY_TIMEOUT", 60.0)
    spec, arguments = wire()
    happened: list[str] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        happened.append(f"{done:g} begins")
        await anyio.sleep(0.05 / done)  # later ones are faster, and would overtake it if they ran concurrently
        happened.append(f"{done:g} ends")

    async with MCPPool({"s": spec}) as pool:
        await pool.call_tool("s__progress", arguments, progress=note)
        await eventually(lambda: len(happened) == 10)
    assert happened == [f"{step} {what}" for step in range(1, 6) for what in ("begins", "ends")]


@on_each_wire
async def test_a_progress_function_that_raises_affects_neither_the_call_nor_later_reports(wire: Wire) -> None:
    spec, arguments = wire()
    seen: list[float] = []

    async def stumble(done: float, total: float | None, message: str | None) -> None:
        seen.append(done)
        raise ValueError("the callback failed")

    async with MCPPool({"s": spec}) as pool:
        assert words(await pool.call_tool("s__progress", arguments, progress=stumble)) == "5 steps done"
        await eventually(lambda: len(seen) == 5)
        assert words(await pool.call_tool("s__progress", arguments)) == "5 steps done"
        assert pool.server("s").generation == 1


@on_each_wire
async def test_a_progress_function_that_hangs_delays_neither_its_call_nor_others(wire: Wire) -> None:
    spec, arguments = wire()
    begun = anyio.Event()

    async def hang(done: float, total: float | None, message: str | None) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with MCPPool({"s": spec}, call_timeout=3) as pool:
        with anyio.fail_after(15):
            assert words(await pool.call_tool("s__progress", arguments, progress=hang)) == "5 steps done"
            await begun.wait()
            assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"


async def test_a_progress_function_that_hangs_does_not_delay_that_of_another_call(tmp_path: Path) -> None:
    ledger, reached = tmp_path / "ledger", anyio.Event()

    async def hang(done: float, total: float | None, message: str | None) -> None:
        await anyio.sleep_forever()

    async def arrive(done: float, total: float | None, message: str | None) -> None:
        reached.set()

    async with MCPPool({"s": with_ledger(ledger)}) as pool, anyio.create_task_group() as group:
        group.start_soon(lambda: pool.call_tool("s__hold", {"key": "a"}, progress=hang))
        group.start_soon(lambda: pool.call_tool("s__hold", {"key": "b"}, progress=arrive))
        await arrival(ledger, "hold", 2)
        await pool.call_tool("s__advance", {"key": "a"})
        await pool.call_tool("s__advance", {"key": "b"})
        with anyio.fail_after(15):
            await reached.wait()
        group.cancel_scope.cancel()


async def test_a_progress_function_gets_the_reports_of_its_own_call_only(tmp_path: Path) -> None:
    ledger, heard = tmp_path / "ledger", list[tuple[str, float]]()

    def hear(key: str) -> Any:
        async def note(done: float, total: float | None, message: str | None) -> None:
            heard.append((key, done))

        return note

    async with MCPPool({"s": with_ledger(ledger)}) as pool, anyio.create_task_group() as group:
        for key in "ab":
            group.start_soon(lambda key=key: pool.call_tool("s__hold", {"key": key}, progress=hear(key)))
        await arrival(ledger, "hold", 2)
        await pool.call_tool("s__advance", {"key": "a", "step": 1})
        await pool.call_tool("s__advance", {"key": "b", "step": 2})
        await eventually(lambda: len(heard) == 2)
        group.cancel_scope.cancel()
    assert sorted(heard) == [("a", 1), ("b", 2)]


async def test_progress_after_the_end_of_its_call_is_dropped(tmp_path: Path) -> None:
    ledger, seen = tmp_path / "ledger", list[float]()

    async def note(done: float, total: float | None, message: str | None) -> None:
        seen.append(done)

    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        with pytest.raises(TimeoutError):
            await pool.call_tool("s__hold", {"key": "a"}, timeout=1, progress=note)
        await arrival(ledger, "hold")
        await pool.call_tool("s__advance", {"key": "a"})
        assert words(await pool.call_tool("s__echo", {"text": "on"})) == "on"
    assert not seen


async def test_a_callback_may_call_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_pool.calls.progress.DELIVERY_TIMEOUT", 60.0)
    answers: list[str] = []

    async with MCPPool({"s": answering()}) as pool:

        async def ask(done: float, total: float | None, message: str | None) -> None:
            answers.append(words(await pool.call_tool("s__echo", {"text": f"{done:g}"})))

        await pool.call_tool("s__progress", {"steps": 3}, progress=ask)
        await eventually(lambda: len(answers) == 3)
    assert answers == ["1", "2", "3"]


@pytest.mark.parametrize("wire", [legacy_stdio, modern_in_process])
async def test_a_progress_function_may_disconnect_its_own_server(wire: Wire) -> None:
    spec, arguments = wire()
    call = Outcome()
    async with MCPPool({"s": spec}) as pool:

        async def leave(done: float, total: float | None, message: str | None) -> None:
            await pool.disconnect("s", drain=0)

        with anyio.fail_after(15):
            await call.of(lambda: pool.call_tool("s__progress", arguments, progress=leave))
            await eventually(lambda: not pool.servers)


async def test_a_progress_function_that_raises_a_base_exception_ends_the_program() -> None:
    class Stop(BaseException):
        pass

    async def stop(done: float, total: float | None, message: str | None) -> None:
        raise Stop

    server = MCPServer[Any]("plain", log_level="WARNING")

    @server.tool(structured_output=False)
    async def report(context: Context[Any, Any]) -> str:
        """Report progress once."""
        await context.report_progress(1)
        await anyio.sleep_forever()
        return "never"

    with pytest.raises(Stop):
        async with MCPPool({"s": InProcessServer(server)}) as pool:
            await pool.call_tool("s__report", progress=stop)


async def test_a_progress_function_that_is_not_callable_is_rejected_before_anything_is_sent(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    callback: Any = "no function"
    async with MCPPool({"s": with_ledger(ledger)}) as pool:
        with pytest.raises(ConfigError, match="progress"):
            await pool.call_tool("s__progress", progress=callback)
    assert calls_of(ledger, "progress") == 0
