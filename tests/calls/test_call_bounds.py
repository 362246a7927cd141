"""How long a call may take, on a virtual clock: without progress, in total, and waiting for the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import Context, MCPServer

from helpers.calls import words
from helpers.clock import virtual_backends
from mcp_pool import (
    CallTimeout,
    ConnectError,
    ConnectTimeout,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
)
from servers.in_process import raising_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

from contextlib import asynccontextmanager, contextmanager

STEADY = RestartPolicy(jitter=0.0)


@pytest.fixture(scope="module", params=virtual_backends())
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def ticking(*, starts_in: float = 0.0, **fields: Any) -> InProcessServer:
    """A server with slow tools; `fields` are those of its spec."""

    @asynccontextmanager
    async def lifespan(_server: MCPServer[Any]) -> AsyncGenerator[None, None]:
        await anyio.sleep(starts_in)
        yield

    server = MCPServer[Any]("ticking", lifespan=lifespan, log_level="WARNING")

    @server.tool(structured_output=False)
    async def ticks(context: Context[Any, Any], n: int, interval: float, rest: float = 0.0) -> str:
        """Report progress n times, each after an interval, then pause and answer."""
        for tick in range(n):
            await anyio.sleep(interval)
            await context.report_progress(tick)
        await anyio.sleep(rest)
        return "done"

    @server.tool(structured_output=False)
    async def sleep(seconds: float) -> str:
        """Answer after the given number of seconds, without progress."""
        await anyio.sleep(seconds)
        return "done"

    return InProcessServer(server, **fields)


@contextmanager
def taking(seconds: float) -> Generator[None, None, None]:
    """Check how much virtual time the block takes."""
    start = anyio.current_time()
    yield
    assert anyio.current_time() - start == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_silent_call_times_out_after_call_timeout(mode: str) -> None:
    async with MCPPool({"s": ticking(mode=mode)}, call_timeout=10) as pool:
        with taking(10), pytest.raises(CallTimeout, match="neither an answer nor progress for call_timeout=10 s"):
            await pool.call_tool("s__sleep", {"seconds": 11})


async def test_a_call_that_is_answered_just_in_time_succeeds() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10) as pool:
        assert words(await pool.call_tool("s__sleep", {"seconds": 9.9})) == "done"


async def test_the_error_of_a_call_that_timed_out_has_all_details() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10) as pool:
        with pytest.raises(TimeoutError, match="the call to tool 'sleep'") as caught:
            await pool.call_tool("s__sleep", {"seconds": 11})
        error = caught.value
        assert isinstance(error, CallTimeout)
        assert (error.server_id, error.generation, error.phase, error.may_have_run) == ("s", 1, "call", True)
        assert pool.server("s").generation == 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_restarts_call_timeout(mode: str) -> None:
    async with MCPPool({"s": ticking(mode=mode)}, call_timeout=10) as pool:
        with taking(49):
            assert words(await pool.call_tool("s__ticks", {"n": 5, "interval": 8, "rest": 9})) == "done"


async def test_silence_is_counted_from_the_latest_progress() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10) as pool:
        with taking(26), pytest.raises(CallTimeout, match="call_timeout=10"):
            await pool.call_tool("s__ticks", {"n": 2, "interval": 8, "rest": 100})


async def test_max_call_time_bounds_a_call_that_reports_progress_for_ever() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10, max_call_time=25) as pool:
        with taking(25), pytest.raises(CallTimeout, match="max_call_time=25 s"):
            await pool.call_tool("s__ticks", {"n": 1000, "interval": 8})


async def test_max_call_time_bounds_a_silent_call_too() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=None, max_call_time=25) as pool:
        with taking(25), pytest.raises(CallTimeout, match="max_call_time=25 s"):
            await pool.call_tool("s__sleep", {"seconds": 1000})


async def test_an_explicit_timeout_is_total_and_progress_does_not_restart_it() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10) as pool:
        with taking(20), pytest.raises(CallTimeout, match="within timeout=20 s"):
            await pool.call_tool("s__ticks", {"n": 1000, "interval": 8}, timeout=20)


async def test_an_explicit_timeout_replaces_both_settings() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10, max_call_time=25) as pool:
        with taking(100):
            assert words(await pool.call_tool("s__sleep", {"seconds": 100}, timeout=200)) == "done"


async def test_a_timeout_of_none_is_no_timeout() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=10, max_call_time=25) as pool:
        assert words(await pool.call_tool("s__sleep", {"seconds": 1e6}, timeout=None)) == "done"


async def test_a_timeout_of_zero_ends_the_call_at_its_first_wait() -> None:
    async with MCPPool({"s": ticking()}) as pool:
        with taking(0), pytest.raises(CallTimeout, match="within timeout=0"):
            await pool.call_tool("s__sleep", {"seconds": 1}, timeout=0)
        assert words(await pool.call_tool("s__sleep", {"seconds": 1})) == "done"


async def test_both_settings_may_be_off() -> None:
    async with MCPPool({"s": ticking()}, call_timeout=None, max_call_time=None) as pool:
        assert words(await pool.call_tool("s__sleep", {"seconds": 1e6})) == "done"


@pytest.mark.parametrize(
    ("own", "arguments", "bound"),
    [
        ({"call_timeout": 5}, {"seconds": 1000}, 5),
        ({"call_timeout": 15}, {"seconds": 1000}, 15),
        ({"max_call_time": 7}, {"seconds": 1000}, 7),
        ({"call_timeout": None}, {"seconds": 1000}, 25),
    ],
    ids=["shorter silence", "longer silence", "shorter whole", "no silence"],
)
async def test_a_servers_own_limits_replace_those_of_the_pool(
    own: dict[str, Any], arguments: dict[str, Any], bound: float
) -> None:
    servers = {"own": ticking(**own), "plain": ticking()}
    async with MCPPool(servers, call_timeout=10, max_call_time=25) as pool:
        with taking(bound), pytest.raises(CallTimeout):
            await pool.call_tool("own__sleep", arguments)
        with taking(10), pytest.raises(CallTimeout):
            await pool.call_tool("plain__sleep", arguments)


async def test_a_servers_own_none_removes_the_pools_max_call_time() -> None:
    async with MCPPool({"s": ticking(max_call_time=None)}, call_timeout=10, max_call_time=25) as pool:
        assert words(await pool.call_tool("s__ticks", {"n": 100, "interval": 8})) == "done"


async def test_a_call_waits_for_a_server_that_is_connecting() -> None:
    async with MCPPool() as pool:
        pool.add("s", ticking(starts_in=12))
        with taking(15):
            assert words(await pool.server("s").call_tool("sleep", {"seconds": 3})) == "done"


async def test_the_limits_of_a_call_start_when_its_server_is_connected() -> None:
    async with MCPPool(call_timeout=10) as pool:
        pool.add("s", ticking(starts_in=20))
        with taking(29):
            assert words(await pool.server("s").call_tool("sleep", {"seconds": 9})) == "done"


async def test_a_call_waits_for_its_server_no_longer_than_wait_timeout() -> None:
    async with MCPPool(wait_timeout=7) as pool:
        pool.add("s", ticking(starts_in=20))
        with taking(7), pytest.raises(ServerUnavailable, match="connecting") as caught:
            await pool.server("s").call_tool("sleep", {"seconds": 1})
        assert caught.value.missing == ("s",)
        assert caught.value.server_id == "s"
        assert caught.value.cause is None


async def test_a_call_without_wait_timeout_waits_for_ever() -> None:
    async with MCPPool(wait_timeout=None, connect_timeout=None) as pool:
        pool.add("s", ticking(starts_in=1e5))
        assert words(await pool.server("s").call_tool("sleep", {"seconds": 1})) == "done"


async def test_with_a_wait_timeout_of_zero_a_call_fails_at_once_unless_its_server_is_connected() -> None:
    async with MCPPool({"there": ticking()}, wait_timeout=0) as pool:
        pool.add("s", ticking(starts_in=20))
        with taking(0), pytest.raises(ServerUnavailable):
            await pool.server("s").call_tool("sleep", {"seconds": 1})
        assert words(await pool.call_tool("there__sleep", {"seconds": 1})) == "done"


async def test_an_explicit_timeout_includes_the_wait_for_the_server() -> None:
    async with MCPPool() as pool:
        pool.add("s", ticking(starts_in=20))
        with taking(5), pytest.raises(ServerUnavailable):
            await pool.server("s").call_tool("sleep", {"seconds": 1}, timeout=5)


async def test_the_wait_for_the_server_reduces_the_rest_of_an_explicit_timeout() -> None:
    async with MCPPool() as pool:
        pool.add("s", ticking(starts_in=4))
        with taking(6), pytest.raises(CallTimeout, match=r"within timeout=6 s"):
            await pool.server("s").call_tool("sleep", {"seconds": 4}, timeout=6)


async def test_a_call_that_waited_in_vain_says_why_its_server_fails() -> None:
    async with MCPPool({"s": InProcessServer(raising_lifespan())}, wait_timeout=7, restart=STEADY) as pool:
        with taking(7), pytest.raises(ServerUnavailable, match="the lifespan failed") as caught:
            await pool.server("s").call_tool("echo", {"text": "hello"})
        assert caught.value.missing == ("s",)
        assert isinstance(caught.value.cause, ConnectError)
        assert isinstance(caught.value.cause.cause, RuntimeError)


async def test_a_call_for_a_failed_server_fails_at_once_and_says_why_it_has_failed() -> None:
    spec = InProcessServer(raising_lifespan(), restart=RestartPolicy.never())
    async with MCPPool({"s": spec}, wait_timeout=7) as pool:
        with taking(0), pytest.raises(ServerUnavailable, match=r"failed.*the lifespan failed") as caught:
            await pool.server("s").call_tool("echo", {"text": "hello"})
        assert isinstance(caught.value.cause, ConnectError)


async def test_a_call_that_waits_fails_as_soon_as_its_server_has_failed() -> None:
    spec = ticking(starts_in=1000, connect_timeout=3, restart=RestartPolicy.never())
    async with MCPPool() as pool:
        pool.add("s", spec)
        with taking(3), pytest.raises(ServerUnavailable, match="failed") as caught:
            await pool.server("s").call_tool("sleep", {"seconds": 1})
        assert isinstance(caught.value.cause, ConnectTimeout)


async def test_a_call_that_waits_fails_as_soon_as_its_server_is_disconnected() -> None:
    async with MCPPool() as pool:
        pool.add("s", ticking(starts_in=1000))

        async def disconnect() -> None:
            await anyio.sleep(3)
            await pool.disconnect("s")

        async with anyio.create_task_group() as group:
            group.start_soon(disconnect)
            with taking(3), pytest.raises(ServerUnavailable, match="disconnected"):
                await pool.server("s").call_tool("sleep", {"seconds": 1})
