"""Callbacks: what they receive, in which order, what is announced to the server, and what happens when they fail."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ErrorData, SamplingCapability, SamplingToolsCapability, ToolListChangedNotification

from helpers.callbacks import (
    ANSWERS,
    CURIOUS,
    LOGS,
    TOOLS,
    WIRES,
    WORDS,
    Listener,
    asking,
    each_question,
    on_each_wire,
    said,
)
from helpers.calls import answering
from helpers.common import eventually
from mcp_pool import ClientCallbacks, ConfigError, ConnectionStatus, InProcessServer, MCPPool, StdioServer
from servers import read_lines

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message

SECRET = "hunter-2-hunter-2"
BOUND = 15.0
"""Seconds for what must end, on a slow machine too."""


@on_each_wire
async def test_a_request_reaches_its_callback_and_the_answer_reaches_the_server(wire: str) -> None:
    listener = Listener()
    async with MCPPool({"s": asking(wire, callbacks=listener.callbacks())}) as pool:
        for kind, tool in TOOLS.items():
            assert WORDS[kind] in await said(pool, tool)
    assert listener.asked == ["how?", "who?", "ClientRequestContext"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_the_requests_of_an_sdk_server_over_stdio_are_answered(mode: str) -> None:
    listener = Listener()
    program = str(CURIOUS.with_name("inquiring.py"))
    spec = StdioServer(sys.executable, [program], mode=mode, callbacks=listener.callbacks(), client_options=LOGS)
    async with MCPPool({"s": spec}, open_timeout=None) as pool:
        assert [await said(pool, tool) for tool in TOOLS.values()] == list(WORDS.values())
        await said(pool, "tell", arguments={"count": 5})
        await eventually(lambda: len(listener.told) == 5)
    assert listener.logged == ["0", "1", "2", "3", "4"]


@on_each_wire
async def test_notifications_arrive_in_order_and_one_at_a_time(wire: str) -> None:
    listener, happened = Listener(), list[str]()

    async def logging(params: Any) -> None:
        happened.append(f"{params.data} begins")
        await anyio.sleep(
            0.01 / (int(params.data) + 1)
        )  # later ones are faster, and would overtake it if they ran concurrently
        happened.append(f"{params.data} ends")

    async with MCPPool({"s": asking(wire, callbacks=listener.callbacks(logging=logging))}) as pool:
        await said(pool, "tell", arguments={"count": 50})
        await eventually(lambda: len(listener.told) == 50)
    assert listener.told == [str(number) for number in range(50)]
    assert happened == [f"{number} {what}" for number in range(50) for what in ("begins", "ends")]


@pytest.mark.parametrize("wire", [wire for wire in WIRES if "stdio" in wire])
async def test_every_notification_reaches_the_message_callback(wire: str) -> None:
    listener = Listener()
    async with MCPPool({"s": asking(wire, callbacks=listener.callbacks())}) as pool:
        await said(pool, "change")
        await eventually(lambda: listener.told)
    assert [type(message) for message in listener.told] == [ToolListChangedNotification]


@each_question
@on_each_wire
async def test_a_callback_that_raises_is_an_error_for_the_server_without_the_text_of_the_exception(
    wire: str, kind: str, record_logs: list[Message]
) -> None:
    async def stumble(*_: Any) -> Any:
        raise ValueError(SECRET)

    listener = Listener()
    callbacks = listener.callbacks(**{kind: stumble}, logging=stumble)
    async with MCPPool({"s": asking(wire, callbacks=callbacks)}) as pool:
        words = await said(pool, TOOLS[kind])
        assert "the client could not answer" in words
        assert SECRET not in words
        for other in TOOLS.keys() - {kind}:
            assert WORDS[other] in await said(pool, TOOLS[other])
        await said(pool, "tell", arguments={"count": 3})
        await eventually(lambda: listener.told == ["0", "1", "2"])
        assert pool.server("s").generation == 1
    assert any("latest raised ValueError" in line for line in record_logs)
    assert not any(SECRET in line for line in record_logs)


@each_question
@pytest.mark.parametrize(("wire", "rubbish"), [("legacy stdio", SECRET), ("modern in process", None)])
async def test_a_callback_that_returns_something_invalid_is_not_reported_as_a_failure_of_the_server(
    wire: str, kind: str, rubbish: object, record_logs: list[Message]
) -> None:
    async def mistake(*_: Any) -> Any:
        return rubbish

    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(**{kind: mistake}))}) as pool:
        words = await said(pool, TOOLS[kind])
        assert "the client could not answer" in words
        assert SECRET not in words
    assert any(f"latest returned a value of type {type(rubbish).__name__}" in line for line in record_logs)


@on_each_wire
async def test_a_callback_may_decline_with_its_own_message(wire: str) -> None:
    async def decline(*_: Any) -> Any:
        return ErrorData(code=-1, message="nobody is at home")

    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(elicitation=decline))}) as pool:
        assert "nobody is at home" in await said(pool, "person")


@on_each_wire
@pytest.mark.parametrize(
    "given",
    [("sampling",), ("elicitation", "list_roots", "logging", "message")],
    ids="+".join,
)
async def test_the_callbacks_are_announced_to_the_server(wire: str, given: tuple[str, ...]) -> None:
    everything = Listener().callbacks()
    callbacks = ClientCallbacks(**{name: getattr(everything, name) for name in given})
    async with MCPPool({"s": asking(wire, callbacks=callbacks)}) as pool:
        announced = json.loads(await said(pool, "capabilities"))
    names = {"sampling": "sampling", "elicitation": "elicitation", "list_roots": "roots"}
    assert set(announced) == {names[name] for name in given if name in names}


@on_each_wire
async def test_a_servers_own_callbacks_take_precedence_over_those_that_the_pool_makes_for_its_id(wire: str) -> None:
    own, pools, ids = Listener(), Listener(), list[str]()

    def callbacks_for(server_id: str) -> ClientCallbacks | None:
        ids.append(server_id)
        return None if server_id == "bare" else pools.callbacks()

    mine = own.callbacks()
    servers = {
        "both": asking(wire, callbacks=ClientCallbacks(elicitation=mine.elicitation, logging=mine.logging)),
        "pools": asking(wire),
        "bare": asking(wire),
    }
    async with MCPPool(servers, callbacks=callbacks_for) as pool:
        assert sorted(ids) == ["bare", "both", "pools"]
        for server_id in ("both", "pools"):
            for kind, tool in TOOLS.items():
                assert WORDS[kind] in await said(pool, tool, server_id)
            await said(pool, "tell", server_id, arguments={"count": 1})
        await eventually(lambda: len(pools.told) == 2)
        assert json.loads(await said(pool, "capabilities", "bare")) == {}
    assert (own.asked, own.logged, own.told) == (["who?"], ["0"], [])
    assert pools.asked == ["how?", "ClientRequestContext", "how?", "who?", "ClientRequestContext"]
    assert (pools.logged, pools.told) == (["0"], ["0", "0"])


@pytest.mark.parametrize(
    "given",
    [
        lambda _: 1 / 0,
        lambda _: 0,
        lambda _: "",
        lambda _: {"sampling": print},
        lambda _: ClientCallbacks(sampling="print"),
        lambda _: anyio.lowlevel.checkpoint,
    ],
    ids=["raises", "zero", "empty", "mapping", "no function", "function"],
)
async def test_a_callbacks_function_that_fails_is_a_config_error_before_anything_starts(
    given: Any, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"

    def callbacks_for(server_id: str) -> Any:
        return None if server_id == "good" else given(server_id)

    servers = {"good": answering("--pid-file", str(pids)), "bad": answering("--pid-file", str(pids))}
    with pytest.raises(ConfigError, match="'bad'.*callbacks") as caught:
        async with MCPPool(servers, callbacks=callbacks_for):
            pytest.fail("the block was entered")
    assert caught.value.server_id == "bad"
    assert read_lines(pids) == []
    async with MCPPool({"good": servers["good"]}, callbacks=callbacks_for) as pool:
        with pytest.raises(ConfigError, match="'bad'.*callbacks"):
            await pool.connect("bad", servers["bad"])
        assert list(pool.servers) == ["good"]
        assert pool.get_status("good") is ConnectionStatus.CONNECTED
    assert len(read_lines(pids)) == 1


@pytest.mark.parametrize("field", ["sampling", "elicitation", "list_roots", "logging", "message"])
def test_a_callback_that_is_not_callable_is_a_config_error(field: str) -> None:
    with pytest.raises(ConfigError, match=f"ClientCallbacks: {field} must be an async function, not a str"):
        ClientCallbacks(**{field: "print"})


def test_callbacks_of_the_wrong_type_are_a_config_error() -> None:
    wrong: Any = print
    with pytest.raises(ConfigError, match="StdioServer: callbacks must be a ClientCallbacks"):
        answering(callbacks=wrong)
    with pytest.raises(ConfigError, match="MCPPool: callbacks must be a function"):
        MCPPool(callbacks=ClientCallbacks())


@pytest.mark.parametrize(
    ("wire", "named", "options", "told"),
    [
        ("modern stdio", "logging", {}, True),
        ("modern in process", "logging", {"log_level": None}, True),
        ("modern stdio", "logging", LOGS, False),
        ("modern in process", "message", {}, False),
        ("legacy stdio", "logging", {}, False),
        ("legacy in process", "logging", {}, False),
    ],
)
async def test_a_logging_callback_that_can_never_be_called_is_logged_once(
    wire: str, named: str, options: dict[str, Any], told: bool, record_logs: list[Message]
) -> None:
    callbacks = ClientCallbacks(**{named: getattr(Listener().callbacks(), named)})
    async with MCPPool({"s": asking(wire, callbacks=callbacks, client_options=options)}) as pool:
        await pool.server("s").restart()
        lines = [line for line in record_logs if "to receive its log messages, set log_level" in line]
        assert len(lines) == (1 if told else 0)


@on_each_wire
async def test_a_callback_may_call_the_pool(wire: str) -> None:
    async def sampling(*_: Any) -> Any:
        assert WORDS["elicitation"] in await said(pool, "person")
        return ANSWERS["sampling"]

    async with MCPPool({"s": asking(wire, callbacks=Listener().callbacks(sampling=sampling))}) as pool:
        with anyio.fail_after(BOUND):
            assert WORDS["sampling"] in await said(pool, "model")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_a_sampling_callback_can_do_is_announced_as_the_options_say(mode: str) -> None:
    server: MCPServer[Any] = MCPServer("s", log_level="WARNING")

    @server.tool()
    def announced(context: Context[Any]) -> bool:
        params = context.session.client_params
        sampling = None if params is None else params.capabilities.sampling
        return sampling is not None and sampling.tools is not None

    for options in ({}, {"sampling_capabilities": SamplingCapability(tools=SamplingToolsCapability())}):
        callbacks = Listener().callbacks()
        spec = InProcessServer(server, mode=mode, callbacks=callbacks, client_options=options)
        async with MCPPool({"s": spec}) as pool:
            result = await pool.call_tool("s__announced")
            assert result.structured_content == {"result": bool(options)}
