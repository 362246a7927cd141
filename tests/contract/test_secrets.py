"""P10: the secrets in a configuration do not appear in anything that the pool logs, raises or shows.

These servers reveal the secrets that they were given, on every path from a server to a reader.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.common import eventually, scripted
from helpers.secrets import shown, visible
from mcp_pool import (
    CallTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    Event,
    InvalidResponse,
    MCPPool,
    RestartPolicy,
    ServerUnavailable,
    StdioServer,
)

if TYPE_CHECKING:
    from loguru import Message

LEAKING = Path(__file__).parents[1] / "servers" / "leaking.py"
SECRET = "tulip-7f3a9c"
LONG_SECRET = "begin-" + "0123456789abcdef" * 8 + "-end"
KEY_LINES = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkq", "-----END KEY-----"]
LEAK = ("--leak-env", "TOKEN")

SLOWLY = RestartPolicy(initial_delay=1000, max_delay=1000)
"""Nothing reconnects during a test."""


def leaking(*options: str, token: str = SECRET) -> StdioServer:
    """A server of `servers/leaking.py` that knows a token."""
    args = ["-I", "-S", str(LEAKING), *options]
    return StdioServer(sys.executable, args, env={"TOKEN": token}, restart=SLOWLY)


async def failure(pool: MCPPool, config: StdioServer) -> ConnectError:
    """The error of a server that could not be connected."""
    with pytest.raises(ConnectError) as caught:
        await pool.connect("s", config)
    return caught.value


async def lost_after(pool: MCPPool, tool: str, config: StdioServer) -> ConnectionLost:
    """The error of a call during which the server exited."""
    await pool.connect("s", config)
    with pytest.raises(ConnectionLost) as caught:
        await pool.call_tool(f"s__{tool}", {"name": "TOKEN"})
    return caught.value


async def test_the_stderr_tail_of_a_failed_start_is_masked() -> None:
    async with MCPPool() as pool:
        error = await failure(pool, scripted(*LEAK, "--exit-at-start", "3", env={"TOKEN": SECRET}))
    assert error.stderr_tail == "***"
    assert SECRET not in shown(error)


async def test_the_message_of_a_rejected_handshake_is_masked() -> None:
    async with MCPPool() as pool:
        error = await failure(pool, scripted(*LEAK, "--fail-initialize", env={"TOKEN": SECRET}))
    assert "no handshake today ***" in str(error)
    assert SECRET not in shown(error)


async def test_the_message_of_a_rejected_modern_handshake_is_masked() -> None:
    async with MCPPool() as pool:
        error = await failure(pool, scripted(*LEAK, "--fail-initialize", "--modern", env={"TOKEN": SECRET}))
    assert "***" in str(error)
    assert SECRET not in shown(error)


async def test_the_cause_of_a_rejected_handshake_is_chained_without_its_secret() -> None:
    async with MCPPool() as pool:
        error = await failure(pool, scripted(*LEAK, "--fail-initialize", env={"TOKEN": SECRET}))
    assert str(error.cause) == "MCPError: no handshake today ***"


async def test_the_stderr_tail_of_a_lost_connection_is_masked() -> None:
    async with MCPPool() as pool:
        error = await lost_after(pool, "tell_and_die", leaking())
        assert SECRET not in shown(error)
        assert "the value is ***!" in error.stderr_tail
        assert SECRET not in visible(pool, "s")
        assert "***" in visible(pool, "s")


@pytest.mark.parametrize("tool", ["break_protocol", "break_schema"])
@pytest.mark.parametrize("secret", [pytest.param(SECRET, id="short"), pytest.param(LONG_SECRET, id="long")])
async def test_an_invalid_response_does_not_show_a_secret(tool: str, secret: str) -> None:
    """Validation shortens long values: half a secret is a secret, too."""
    async with MCPPool() as pool:
        await pool.connect("s", leaking(token=secret))
        with pytest.raises(InvalidResponse) as caught:
            await pool.call_tool(f"s__{tool}", {"name": "TOKEN"})
    assert secret[:12] not in shown(caught.value)
    assert secret[-12:] not in shown(caught.value)


async def test_a_call_that_took_too_long_does_not_show_a_secret() -> None:
    async with MCPPool({"s": leaking()}) as pool:
        with pytest.raises(CallTimeout) as caught:
            await pool.read_resource("s", f"postgres://user:{SECRET}@host/table", timeout=0)
    assert SECRET not in shown(caught.value)


async def test_nothing_secret_is_logged(record_logs: list[Message]) -> None:
    async with MCPPool() as pool:
        await pool.connect("s", leaking(*LEAK))
        await pool.call_tool("s__tell", {"name": "TOKEN"})
        with pytest.raises(ConnectionLost):
            await pool.call_tool("s__tell_and_die", {"name": "TOKEN"})
        await failure_of_another(pool)
    logged = "\n".join(f"{message} {message.record}" for message in record_logs)
    assert "the value is ***!" in logged
    assert SECRET not in logged


async def test_no_traceback_is_logged(record_logs: list[Message]) -> None:
    """It would show local variables, including the configuration."""
    async with MCPPool() as pool:
        await failure_of_another(pool)
        await lost_after(pool, "tell_and_die", leaking())
    assert record_logs
    assert all(message.record["exception"] is None for message in record_logs)


async def failure_of_another(pool: MCPPool) -> None:
    """Connect a server that rejects the handshake."""
    with pytest.raises(ConnectError):
        await pool.connect("t", scripted(*LEAK, "--fail-initialize", env={"TOKEN": SECRET}))


async def test_events_do_not_show_secrets() -> None:
    seen: list[Event] = []

    async def listen() -> None:
        async with pool.events() as events:
            listening.set()
            async for event in events:
                seen.append(event)

    listening = anyio.Event()
    async with anyio.create_task_group() as group, MCPPool() as pool:
        group.start_soon(listen)
        await listening.wait()
        await lost_after(pool, "tell_and_die", leaking())
        await failure_of_another(pool)
        await eventually(lambda: any(getattr(event, "error", None) for event in seen))
        await pool.close_all()
    errors = [event.error for event in seen if getattr(event, "error", None) is not None]
    assert errors
    assert SECRET not in "\n".join(map(shown, errors))
    assert SECRET not in repr(seen)


async def test_a_server_that_has_left_does_not_show_secrets() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", leaking())
        handle = pool.server("s")
        with pytest.raises(ConnectionLost):
            await handle.call_tool("tell_and_die", {"name": "TOKEN"})
        await pool.disconnect("s")
        assert SECRET not in shown(handle.last_error)


async def test_waiting_for_a_server_that_is_down_does_not_show_secrets() -> None:
    async with MCPPool(wait_timeout=0) as pool:
        await lost_after(pool, "tell_and_die", leaking())
        with pytest.raises(ServerUnavailable) as caught:
            await pool.call_tool("s__tell", {"name": "TOKEN"})
        with pytest.raises(ServerUnavailable) as not_ready:
            await pool.wait_ready(timeout=0)
    for error in (caught.value, not_ready.value):
        assert "***" in str(error.cause)
    assert SECRET not in shown(caught.value)
    assert SECRET not in shown(not_ready.value)


async def test_a_secret_of_several_lines_is_masked_line_by_line(record_logs: list[Message]) -> None:
    async with MCPPool() as pool:
        error = await lost_after(pool, "tell_and_die", leaking(token="\n".join(KEY_LINES)))
    everything = shown(error) + "\n".join(map(str, record_logs))
    assert [line for line in KEY_LINES if line in everything] == []


async def test_a_short_value_stays_readable() -> None:
    async with MCPPool() as pool:
        error = await lost_after(pool, "tell_and_die", leaking(token="debug"))
    assert error.stderr_tail == "the value is debug!"


async def test_only_the_program_of_a_command_is_shown(record_logs: list[Message]) -> None:
    config = StdioServer("no-such-program", ["--password", SECRET], env={"TOKEN": "another-secret"})
    async with MCPPool() as pool:
        error = await failure(pool, config)
        assert "no-such-program" in str(error)
        pool.add("kept", config)
        await eventually(lambda: pool.server("kept").last_error is not None)
        everything = [shown(error), visible(pool, "kept"), *map(str, record_logs)]
    assert SECRET not in "\n".join(everything)


async def test_the_arguments_of_a_server_that_failed_are_not_shown(record_logs: list[Message]) -> None:
    config = scripted("--exit-at-start", 3, "--tools", SECRET)
    async with MCPPool() as pool:
        error = await failure(pool, config)
    assert SECRET not in shown(error) + "\n".join(map(str, record_logs))


async def test_the_names_of_tasks_do_not_show_secrets() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", leaking("--tools", "tool-" + SECRET))
        assert SECRET not in "".join(str(task) for task in anyio.get_running_tasks())


async def test_a_servers_own_error_passes_through_unchanged() -> None:
    async with MCPPool() as pool:
        await pool.connect("s", leaking())
        with pytest.raises(Exception, match=SECRET):
            await pool.call_tool("s__refuse", {"name": "TOKEN"})


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"env": {"TOKEN": SECRET, "OTHER": 1}}, id="env"),
        pytest.param({"env": {"TOKEN": SECRET + "\0"}}, id="a value in env"),
        pytest.param({"env": [SECRET]}, id="env of another kind"),
        pytest.param({"args": [SECRET, 1]}, id="args"),
        pytest.param({"args": SECRET}, id="args of another kind"),
        pytest.param({"args": [SECRET + "\ud800"]}, id="an argument that cannot be encoded"),
    ],
)
async def test_an_invalid_configuration_does_not_show_secrets(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        StdioServer("program", **wrong)
    assert SECRET not in shown(caught.value)
