"""The deadlines of calls while a callback runs, on a virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.callbacks import ANSWERS, Listener, asking, said
from helpers.clock import virtual_backends
from helpers.turns import in_turn, taking
from mcp_pool import CallTimeout, MCPPool

if TYPE_CHECKING:
    from mcp_pool import InProcessServer, StdioServer

each_protocol = pytest.mark.parametrize("wire", ["legacy in process", "modern in process"])


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def thinking(wire: str, **fields: Any) -> StdioServer | InProcessServer:
    """A server with requests: the person takes 100 s, the model 200 s and the roots 300 s."""

    async def elicitation(*_: Any) -> Any:
        await anyio.sleep(100)
        return ANSWERS["elicitation"]

    async def sampling(*_: Any) -> Any:
        await anyio.sleep(200)
        return ANSWERS["sampling"]

    async def list_roots(*_: Any) -> Any:
        await anyio.sleep(300)
        return ANSWERS["list_roots"]

    callbacks = Listener().callbacks(elicitation=elicitation, sampling=sampling, list_roots=list_roots)
    return asking(wire, callbacks=callbacks, **fields)


@each_protocol
@pytest.mark.parametrize(("tool", "seconds"), [("person", 100), ("model", 200)])
async def test_call_timeout_is_paused_while_a_callback_waits_for_a_person(wire: str, tool: str, seconds: float) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool:
        with taking(seconds):
            await pool.call_tool(f"s__{tool}")


@each_protocol
async def test_call_timeout_is_not_paused_for_a_list_of_roots(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool:
        with taking(10), pytest.raises(CallTimeout, match="call_timeout=10"):
            await pool.call_tool("s__roots")


@each_protocol
async def test_call_timeout_restarts_when_the_callback_has_answered(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool:
        with taking(109):
            assert await said(pool, "person_then", arguments={"seconds": 9}) == "Ann"
        with taking(110), pytest.raises(CallTimeout, match="call_timeout=10"):
            await pool.call_tool("s__person_then", {"seconds": 11})


@each_protocol
async def test_max_call_time_is_not_paused_while_a_callback_runs(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10, max_call_time=50) as pool:
        with taking(50), pytest.raises(CallTimeout, match="max_call_time=50"):
            await pool.call_tool("s__person")


@each_protocol
async def test_an_explicit_timeout_is_not_paused_while_a_callback_runs(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool:
        with taking(50), pytest.raises(CallTimeout, match="timeout=50"):
            await pool.call_tool("s__person", timeout=50)


@each_protocol
async def test_all_calls_of_the_server_are_paused_and_no_others(wire: str) -> None:
    async with MCPPool({"s": thinking(wire), "other": thinking(wire)}, call_timeout=10) as pool:
        async with anyio.create_task_group() as group:
            before = await in_turn(group, pool.call_tool, "s__sleep", {"seconds": 105})
            late = await in_turn(group, pool.call_tool, "s__sleep", {"seconds": 115})
            others = await in_turn(group, pool.call_tool, "other__sleep", {"seconds": 105})
            await in_turn(group, pool.call_tool, "s__person")
            meanwhile = await in_turn(group, pool.call_tool, "s__sleep", {"seconds": 105})
            with taking(10):
                await others.ended.wait()
            with taking(100):
                await late.ended.wait()
        assert (before.error, meanwhile.error) == (None, None)
        assert [type(each.error) for each in (late, others)] == [CallTimeout, CallTimeout]


@each_protocol
async def test_calls_are_paused_until_the_last_of_several_callbacks_has_answered(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool, anyio.create_task_group() as group:
        waits = await in_turn(group, pool.call_tool, "s__sleep", {"seconds": 1000})
        await in_turn(group, pool.call_tool, "s__model")
        await in_turn(group, pool.call_tool, "s__person")
        with taking(210):
            await waits.ended.wait()


@each_protocol
async def test_progress_does_not_end_the_pause(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool, anyio.create_task_group() as group:
        await in_turn(group, pool.call_tool, "s__person")
        with taking(105):
            await pool.call_tool("s__progress_then", {"before": 5, "after": 100})


@each_protocol
async def test_the_pause_ends_when_the_request_is_cancelled(wire: str) -> None:
    async with MCPPool({"s": thinking(wire)}, call_timeout=10) as pool, anyio.create_task_group() as group:
        waits = await in_turn(group, pool.call_tool, "s__sleep", {"seconds": 1000})
        with taking(15):
            with anyio.move_on_after(5):
                await pool.call_tool("s__person")
            await waits.ended.wait()
        assert isinstance(waits.error, CallTimeout)
