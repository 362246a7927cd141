"""An invalid argument of a call raises a `ConfigError` that names the server and the field, and nothing is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from mcp_types import PromptReference
from pydantic import BaseModel, model_serializer

from helpers.calls import words
from helpers.common import scripted
from helpers.turns import in_turn
from mcp_pool import DEFAULT, ConfigError, ConnectionStatus, InProcessServer, MCPPool, UnknownServer, UnknownTool
from servers import read_lines
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = 100_000
"""Levels of nesting that no encoder follows."""
REF = PromptReference(name="prompt")
anything: Any = object()
wrong: Any

WRONG_CALLS: list[tuple[str, str, Callable[[MCPPool], Awaitable[Any]]]] = [
    (field, kind, call)
    for wrong in ([1], "text", 1, {1: 2}, {None: 3})
    for field, kind, call in [
        ("arguments", "a tool", lambda pool, wrong=wrong: pool.call_tool("s__echo", wrong)),
        ("meta", "a tool", lambda pool, wrong=wrong: pool.call_tool("s__echo", {}, meta=wrong)),
        ("arguments", "a prompt", lambda pool, wrong=wrong: pool.server("s").get_prompt("x", wrong)),
        ("argument", "completion", lambda pool, wrong=wrong: pool.complete("s", REF, wrong)),
        ("context", "completion", lambda pool, wrong=wrong: pool.complete("s", REF, {"name": "a", "value": ""}, wrong)),
    ]
]
WRONG_CALLS += [
    (field, kind, call)
    for wrong in (-1, -0.001, float("nan"), float("inf"), 10**400, "1", True, [], anything)
    for field, kind, call in [
        ("timeout", "a tool", lambda pool, wrong=wrong: pool.call_tool("s__echo", {}, timeout=wrong)),
        ("timeout", "a prompt", lambda pool, wrong=wrong: pool.server("s").get_prompt("x", timeout=wrong)),
        ("timeout", "a resource", lambda pool, wrong=wrong: pool.read_resource("s", "file:///x", timeout=wrong)),
        ("timeout", "completion", lambda pool, wrong=wrong: pool.complete("s", REF, {}, timeout=wrong)),
        ("drain", "disconnecting", lambda pool, wrong=wrong: pool.disconnect("s", drain=wrong)),
    ]
]
WRONG_CALLS += [
    (field, kind, call)
    for wrong in (None, 1, [], b"x", anything)
    for field, kind, call in [
        ("name", "a tool of a server", lambda pool, wrong=wrong: pool.server("s").call_tool(wrong)),
        ("name", "a prompt", lambda pool, wrong=wrong: pool.server("s").get_prompt(wrong)),
        ("uri", "a resource", lambda pool, wrong=wrong: pool.read_resource("s", wrong)),
        ("ref", "completion", lambda pool, wrong=wrong: pool.complete("s", wrong, {"name": "a", "value": ""})),
    ]
]
WRONG_CALLS += [
    ("arguments", "what cannot be sent", lambda pool: pool.call_tool("s__echo", {"text": anything})),
    ("meta", "what cannot be sent", lambda pool: pool.call_tool("s__echo", {}, meta={"x": anything})),
    ("arguments", "a number for a prompt", lambda pool: pool.server("s").get_prompt("x", {"a": anything})),
    ("argument", "nothing to complete", lambda pool: pool.complete("s", REF, anything)),
    ("argument", "a number to complete", lambda pool: pool.complete("s", REF, {"name": "a", "value": anything})),
    ("progress", "not callable", lambda pool: pool.call_tool("s__echo", {}, progress=anything)),
    ("drain", "no bound for disconnecting", lambda pool: pool.disconnect("s", drain=anything)),
    ("generation", "a word", lambda pool: pool.server("s").restart(generation=anything)),
    ("generation", "negative", lambda pool: pool.server("s").restart(generation=-1)),
]


async def test_an_invalid_argument_raises_an_error_with_server_and_field_and_nothing_is_sent(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    async with MCPPool() as pool:
        await pool.connect("s", scripted("--ledger", ledger))
        before = read_lines(ledger), pool.snapshot().servers
        for field, kind, call in WRONG_CALLS:
            with pytest.raises(ConfigError) as caught:
                await call(pool)
            assert (caught.value.server_id, caught.value.field) == ("s", field), kind
            assert "'s'" in str(caught.value), kind
            assert field in str(caught.value), kind
        assert (await pool.call_tool("s__calls")).is_error is False
        after = read_lines(ledger)
    assert [line["tool"] for line in after[len(before[0]) :]] == ["calls"]


class Node(BaseModel):
    """A model that can hold itself."""

    child: Any = None


class Endless(Mapping[str, Any]):
    """A mapping of the user's own that holds itself."""

    def __getitem__(self, _key: str) -> Endless:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(["name"])

    def __len__(self) -> int:
        return 1


class Bottomless(BaseModel):
    """A model whose own code never ends."""

    @model_serializer
    def serialize(self) -> Any:
        return self.serialize()


class Unprintable(Exception):
    """An error whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError


class Failing(BaseModel):
    """A model whose own code raises an error that cannot be printed."""

    @model_serializer
    def serialize(self) -> Any:
        raise Unprintable


def circular(holder: Any, put: Callable[[Any, Any], object]) -> Any:
    """What holds itself."""
    put(holder, holder)
    return holder


def nested(wrap: Callable[[Any], Any], levels: int = LEVELS) -> Any:
    """What is nested too deeply."""
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)
    return value


UNSENDABLE: dict[str, Callable[[], Any]] = {
    "circular list": lambda: circular([], list.append),
    "circular dict": lambda: circular({}, lambda holder, item: holder.update(name=item)),
    "circular model": lambda: circular(Node(), lambda holder, item: setattr(holder, "child", item)),
    "circular mapping": Endless,
    "deep list": lambda: nested(lambda item: [item]),
    "deep tuple": lambda: nested(lambda item: (item,)),
    "deep dict": lambda: nested(lambda item: {"name": item}),
    "deep model": lambda: nested(lambda item: Node(child=item)),
    "deep mapping": lambda: nested(lambda item: MappingProxyType({"name": item})),
    "recursion": Bottomless,
    "failure": Failing,
    "object": object,
    "half a surrogate pair": lambda: "\ud800",
}
"""Values that have no JSON, or none that can be written."""


@pytest.mark.parametrize("kind", UNSENDABLE)
async def test_an_argument_that_cannot_be_json_is_rejected_before_anything_is_sent(tmp_path: Path, kind: str) -> None:
    ledger, bad = tmp_path / "ledger", {"name": UNSENDABLE[kind]()}
    calls: list[tuple[str, Callable[[MCPPool], Awaitable[Any]]]] = [
        ("arguments", lambda pool: pool.call_tool("s__echo", bad)),
        ("arguments", lambda pool: pool.server("s").call_tool("echo", MappingProxyType(bad))),
        ("arguments", lambda pool: pool.call_tool("s__echo", Endless())),
        ("meta", lambda pool: pool.call_tool("s__echo", {"text": "x"}, meta=bad)),
        ("arguments", lambda pool: pool.server("s").get_prompt("x", bad)),
        ("argument", lambda pool: pool.complete("s", REF, bad)),
        ("context", lambda pool: pool.complete("s", REF, {"name": "a", "value": ""}, bad)),
    ]
    async with MCPPool() as pool:
        await pool.connect("s", scripted("--ledger", ledger))
        before = len(read_lines(ledger))
        for field, call in calls:
            with pytest.raises(ConfigError, match="Nothing was sent") as caught:
                await call(pool)
            assert (caught.value.server_id, caught.value.field) == ("s", field)
            assert len(str(caught.value)) < 500
        assert len(read_lines(ledger)) == before
        assert (pool.snapshot().calls_failed, pool.snapshot().connected) == (0, 1)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("wrap", [lambda item: [item], lambda item: {"a": item}], ids=["lists", "dicts"])
async def test_whatever_depth_is_not_refused_arrives(mode: str, wrap: Callable[[Any], Any]) -> None:
    async with MCPPool({"s": scripted(mode=mode), "here": InProcessServer(calculator(), mode=mode)}) as pool:
        await pool.wait_ready()
        depth, refused = 1, LEVELS
        while refused - depth > 1:
            middle = (depth + refused) // 2
            try:
                await pool.call_tool("s__echo", {"text": "x", "more": nested(wrap, middle)})
                depth = middle
            except ConfigError:
                refused = middle
        assert depth > 100
        for name in ("s__echo", "here__echo"):
            result = await pool.call_tool(name, {"text": "x", "more": nested(wrap, depth)})
            assert result.is_error is False


async def test_an_argument_is_read_once_and_sent_as_it_was_when_the_call_was_made() -> None:
    letters, answers = ["a", "b"], list[str]()
    async with MCPPool() as pool, anyio.create_task_group() as group:
        pool.add("s", scripted())

        async def call(text: Any) -> None:
            answers.append(words(await pool.server("s").call_tool("echo", {"text": text})))

        await in_turn(group, call, letters)
        await in_turn(group, call, (letter for letter in letters))
        letters.clear()
    assert answers == 2 * ["['a', 'b']"]


async def test_a_call_with_invalid_arguments_is_not_counted() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConfigError):
            await pool.call_tool("s__add", {"a": 1, "b": 2}, timeout=-1)
        assert (pool.snapshot().calls_done, pool.snapshot().calls_failed) == (0, 0)


async def test_arguments_that_an_in_process_server_cannot_be_sent_are_an_error() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        for arguments in ({1: 2}, [1]):
            with pytest.raises(ConfigError, match="arguments"):
                await pool.call_tool("s__add", anything if arguments is None else arguments)


@pytest.mark.parametrize("name", [1, None, [], b"s__echo"], ids=repr)
async def test_a_catalog_name_that_is_not_a_string_is_an_error(name: Any) -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConfigError) as caught:
            await pool.call_tool(name)
    assert caught.value.field == "name"


@pytest.mark.parametrize("drain", [None, -1, float("nan"), "1", True, DEFAULT], ids=repr)
async def test_an_invalid_drain_closes_nothing(drain: Any) -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConfigError) as caught:
            await pool.close_all(drain=drain)
        assert caught.value.field == "drain"
        assert pool.get_status("s") is ConnectionStatus.CONNECTED


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True], ids=repr)
async def test_an_invalid_time_to_wait_is_an_error_at_once(timeout: Any) -> None:
    async with MCPPool() as pool:
        with pytest.raises(ConfigError) as caught:
            await pool.wait_ready(timeout=timeout)
    assert caught.value.field == "timeout"


async def test_the_error_for_an_unknown_server_names_the_current_ones() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(UnknownServer, match=r"'t'.*Current servers: s") as caught:
            pool.server("t")
        assert caught.value.server_id == "t"


async def test_for_an_unknown_tool_the_error_is_unknown_tool_whatever_its_arguments() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(UnknownTool):
            await pool.call_tool("s__nothing", timeout=-1)


async def test_a_timeout_of_none_is_valid() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        result = await pool.call_tool("s__add", {"a": 1, "b": 2}, timeout=None)
        assert result.structured_content == {"result": 3}


async def test_another_config_for_a_current_id_is_an_error_that_names_the_id() -> None:
    async with MCPPool({"s": InProcessServer(calculator())}) as pool:
        with pytest.raises(ConfigError, match="replace\\('s'") as caught:
            pool.add("s", InProcessServer(calculator()))
        assert (caught.value.server_id, caught.value.field) == ("s", "config")
        assert pool.get_status("s") is ConnectionStatus.CONNECTED
