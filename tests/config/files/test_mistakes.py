"""What is wrong in a configuration file: said where it is, what was expected, and how to fix it; never a value."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_pool import (
    ConfigError,
    ConnectError,
    Failed,
    InProcessServer,
    InvalidServer,
    MCPPool,
    StdioServer,
    load_config,
)
from servers.in_process import calculator

if TYPE_CHECKING:
    from pathlib import Path

FILE = """{
  "mcpServers": {
    "bad": {
      "command": "npx", // a comment
      "arg": ["-y"],
      "env": {"A": 5, "TOKEN": "${NOT_SET_ANYWHERE}"},
      "mcp_pool": {"call_timeout": "soon", "restrt": {}, "health": {"interval": 0}, "retry_safe": 1}
    },
    "good": {"command": "server"},
  }
}
"""


def problems_of(entry: Any, **options: Any) -> list[tuple[str, str]]:
    """What is wrong with an entry."""
    spec = load_config({"mcpServers": {"s": entry}}, **options)["s"]
    assert isinstance(spec, InvalidServer)
    return [(path.removeprefix("mcpServers.s."), what) for path, what in spec.error.problems]


def written(folder: Path, text: str | bytes) -> Path:
    """A file with this content."""
    path = folder / "servers.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_all_mistakes_of_an_entry_are_told_in_the_manner_of_a_compiler(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    config = load_config(path)
    assert list(config.errors) == ["bad"]
    error = config.errors["bad"]
    assert error.server_id == "bad"
    assert str(error) == (
        f"Server 'bad': {path}:5:7: mcpServers.bad.arg is not known. Did you mean 'args'? There are 5 more mistakes.\n"
        f"{path}:5:7: mcpServers.bad.arg is not known. Did you mean 'args'?\n"
        '    5 |       "arg": ["**"],\n'
        "      |       ^^^^^\n"
        f"{path}:6:20: mcpServers.bad.env.A must be a string, not a number.\n"
        '    6 |       "env": {"A": 5, "TOKEN": "*******************"},\n'
        "      |                    ^\n"
        f"{path}:7:36: mcpServers.bad.mcp_pool.call_timeout must be a number, not a string.\n"
        '    7 |       "mcp_pool": {"call_timeout": "****", "restrt": {}, "health": {"interval": 0}, "retry_safe": 1}\n'
        "      |                                    ^^^^^^\n"
        f'{path}:7:99: mcpServers.bad.mcp_pool.retry_safe must be a list or "annotated", not a number.\n'
        '    7 |       "mcp_pool": {"call_timeout": "****", "restrt": {}, "health": {"interval": 0}, "retry_safe": 1}\n'
        "      |                                                                                                   ^\n"
        f"{path}:7:44: mcpServers.bad.mcp_pool.restrt is not known. Did you mean 'restart'?\n"
        '    7 |       "mcp_pool": {"call_timeout": "****", "restrt": {}, "health": {"interval": 0}, "retry_safe": 1}\n'
        "      |                                            ^^^^^^^^\n"
        f"{path}:6:32: mcpServers.bad.env.TOKEN needs the environment variable NOT_SET_ANYWHERE, which is not set. "
        "Set it, or write ${NOT_SET_ANYWHERE:-default}.\n"
        '    6 |       "env": {"A": 5, "TOKEN": "*******************"},\n'
        "      |                                ^^^^^^^^^^^^^^^^^^^^^"
    )


def test_the_place_of_an_item_in_a_list_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, '{"mcp": {"s": {"command": ["npx", "-y", 5]}}}')
    (error,) = load_config(path).errors.values()
    assert error.reason == f"Server 's': {path}:1:41: mcp.s.command[2] must be a string, not a number."


@pytest.mark.parametrize(
    ("entry", "field", "what"),
    [
        ({}, "", "needs the key command"),
        ({"command": "a", "url": "https://b"}, "url", "cannot be combined with command"),
        ({"type": "websocket", "url": "wss://b"}, "type", "must be stdio, http or sse, not 'websocket'"),
        ({"transport": "stdio", "url": "https://b"}, "", "needs the key command"),
        ({"type": "http", "command": "a"}, "", "needs the key url"),
        ({"command": ""}, "command", "must be the name or path of a program"),
        ({"command": "a", "args": "-y"}, "args", "must be a list, not a string"),
        ({"command": "a", "args": [1]}, "args[0]", "must be a string, not a number"),
        ({"command": "a", "env": [True]}, "env", "must be an object, not a list"),
        ({"command": "a", "env": {"A": None}}, "env.A", "must be a string, not null"),
        ({"command": "a", "env": {"A": True}}, "env.A", "must be a string, not true or false"),
        ({"command": "a", "mcp_pool": {"max_in_flight": {}}}, "mcp_pool.max_in_flight", "not an object"),
        ({"command": "a", "env": {"A=": "b"}}, "env", "must have names"),
        ({"command": "a", "envFile": "nowhere.env"}, "envFile", "could not be read: No such file or directory"),
        ({"command": "a", "timeout": -1}, "timeout", "must be a number of seconds"),
        ({"command": "a", "COMMAND": "b"}, "COMMAND", "is not known. Did you mean 'command'?"),
        ({"url": "ftp://b"}, "url", "must begin with http:// or https://"),
        ({"httpUrl": "b"}, "httpUrl", "must begin with http:// or https://"),
        ({"url": "https://b", "headers": {"A b": "c"}}, "headers", "must have names of letters"),
        ({"command": "a", "mcp_pool": {"mode": "old"}}, "mcp_pool.mode", "must be one of auto, legacy"),
        ({"command": "a", "mcp_pool": {"health": {"interval": 0}}}, "mcp_pool.health.interval", "above 0"),
        ({"command": "a", "mcp_pool": {"restart": {"jitter": 2}}}, "mcp_pool.restart.jitter", "from 0 to 1"),
        ({"command": "${}"}, "command", "contains the variable ${}, which is not known"),
        ({"command": "a", "cwd": "${other:thing}"}, "cwd", "contains the variable ${other:thing}, which is not known"),
        ({"command": "a", "args": ["${input:key}"]}, "args[0]", "needs the input 'key'. Pass inputs="),
    ],
)
def test_each_mistake_names_the_field_and_what_was_expected(entry: Any, field: str, what: str) -> None:
    ((path, sentence),) = problems_of(entry)
    assert path == (field or "mcpServers.s")
    assert what in sentence


def test_an_env_file_that_is_not_text_is_a_mistake(tmp_path: Path) -> None:
    written(tmp_path, b"\xff")
    ((_, what),) = problems_of({"command": "a", "envFile": str(tmp_path / "servers.json")})
    assert what == "could not be read: it is not UTF-8"


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({}, "needs the input 'key', for which `inputs` has no string"),
        (lambda name: 1 / 0, "needs the input 'key', for which `inputs` raised ZeroDivisionError: division by zero"),
    ],
)
def test_an_input_that_nobody_answers_is_a_mistake(inputs: Any, what: str) -> None:
    assert problems_of({"command": "a", "args": ["${input:key}"]}, inputs=inputs) == [("args[0]", what)]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "1:1", "not JSON: Expecting value"),
        ('{"mcpServers": {"a": tru}}', "1:22", "not JSON: Expecting value"),
        ('{\n "mcpServers" {}}', "2:15", "not JSON: Expecting ':' delimiter"),
        ('{"mcpServers": {"a": ' + "9" * 5000 + "}}", "1:1", "not JSON: A number has thousands of digits"),
        ("[" * 100_000, "1:1", "not JSON: Values are nested too deeply"),
    ],
)
def test_a_file_that_is_not_json_is_an_error_with_its_line_and_column(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.reason == f"{path}:{where}: {what}."


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "must be an object with the key mcpServers"),
        ({}, "must have the key mcpServers, servers or mcp, but has nothing"),
        ({"mcpServer": {}}, "but has mcpServer"),
        ({"mcpServers": []}, "mcpServers must be an object that maps ids to servers"),
        ({"mcpServers": {"a": 5}}, "mcpServers.a must be an object"),
        ({"mcpServers": {"": {}}}, "must have a non-empty printable id"),
        ({"mcpServers": {"a": {}}, "servers": {"a": {}}}, "servers.a has the id of another server in this file"),
        ({"mcpServers": {}, "mcp_pool": {"wait": 1}}, "mcp_pool.wait is not known"),
        ({"mcpServers": {}, "mcp_pool": {"restart": {"jitter": 2}}}, "mcp_pool.restart.jitter must be a fraction"),
        ({"mcpServers": {}, "mcp_pool": 5}, "mcp_pool must be an object, not a number"),
    ],
)
def test_a_mistake_in_the_file_itself_is_an_error(tmp_path: Path, data: Any, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, json.dumps(data)))
    assert what in str(caught.value)


def test_a_number_that_the_parser_of_places_does_not_know_is_a_value_like_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mcpServers\.s must be an object"):
        load_config(written(tmp_path, '{"mcpServers": {"s": 1e+16}}'))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not be read: No such file or directory"):
        load_config(tmp_path / "nothing.json")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(written(tmp_path, b'{"a": "\xff"}'))


def test_without_the_extra_a_mistake_is_told_without_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] in ("tree_sitter_json", "dotenv"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    path = written(tmp_path, '{"mcpServers": {"a": {"command": 5}, "b": {"command": "c", "envFile": "d"}}}')
    errors = load_config(path).errors
    assert errors["a"].reason == f"Server 'a': {path}: mcpServers.a.command must be a string, not a number."
    assert "Install the extra: mcp-pool-supervisor[config]" in errors["b"].reason


async def test_one_bad_entry_is_one_failed_server() -> None:
    entries: dict[str, Any] = {"bad": {"comand": "x"}, "worse": {}}
    servers = {**load_config({"mcpServers": entries}), "good": InProcessServer(calculator())}
    async with MCPPool(servers) as pool:
        assert (await pool.call_tool("good__add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        bad = pool.server("bad")
        assert isinstance(bad.state, Failed)
        assert bad.config is None
        error = bad.last_error
        assert isinstance(error, ConnectError)
        assert not error.retryable
        assert isinstance(error.cause, ConfigError)
        assert "has an invalid configuration: Server 'bad': config: mcpServers.bad.comand is not known" in error.reason
        assert repr(servers["bad"]) == "InvalidServer()"
        with pytest.raises(ConnectError, match="invalid configuration"):
            await bad.restart()


async def test_a_bad_entry_that_is_required_keeps_the_block_from_opening() -> None:
    servers = load_config({"mcpServers": {"bad": {"mcp_pool": {"required": True}}}})
    with pytest.raises(ConnectError, match="invalid configuration"):
        async with MCPPool(servers):
            pass


def test_strict_refuses_a_file_with_bad_entries_and_names_them_all() -> None:
    entries: dict[str, Any] = {"bad": {"comand": "x"}, "good": {"command": "x"}, "worse": {}}
    with pytest.raises(ConfigError, match="2 invalid servers: 'bad', 'worse'") as caught:
        MCPPool.from_config({"mcpServers": entries}, strict=True)
    assert [path for path, _ in caught.value.problems] == [
        "mcpServers.bad.comand",
        "mcpServers.bad",
        "mcpServers.worse",
    ]
    assert MCPPool.from_config({"mcpServers": {"good": {"command": "x"}}}, strict=True)


# Whatever is in a file

SECRET = "s3cret-value"
SHOWN = ("command", "type", "transport", "mode", "on_changed", "retry_safe")
"""Keys whose values messages may show, as they do for specs that a program makes."""
KEYS = st.sampled_from(
    [
        "mcpServers",
        "servers",
        "mcp",
        "mcp_pool",
        "command",
        "args",
        "env",
        "url",
        "headers",
        "type",
        "cwd",
        "envFile",
        "environment",
        "timeout",
        "disabled",
        "restart",
        "health",
        "call_timeout",
        "required",
        "pinned",
        "coomand",
    ]
)
TEXTS = st.sampled_from(
    [SECRET, f"Bearer {SECRET}", f"https://u:{SECRET}@h/{SECRET}", "http", "stdio", "${X}", "~", ""]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5),
    max_leaves=15,
)


def harmless(value: Any, key: str = "") -> Any:
    """The value without the secret where messages may show it."""
    if isinstance(value, dict):
        return {name: harmless(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [harmless(item, key) for item in value]
    return value.replace(SECRET, "x") if isinstance(value, str) and key in SHOWN else value


@settings(max_examples=100, deadline=None)
@given(data=st.dictionaries(KEYS, JSON, max_size=3), entries=st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_a_file_is_an_error_or_servers_and_shows_no_value(
    tmp_path_factory: pytest.TempPathFactory, data: Any, entries: Any
) -> None:
    path = written(tmp_path_factory.getbasetemp(), json.dumps(harmless({**data, "mcpServers": entries})))
    try:
        config = load_config(path)
    except ConfigError as error:
        shown = [str(error), repr(error)]
    else:
        shown = [repr(config), *map(repr, config.values()), *map(str, config.errors.values())]
    assert SECRET not in "\n".join(shown)


def test_a_mapping_whose_keys_are_no_strings_is_an_error_like_any_other() -> None:
    wrong: Any = {"mcpServers": {1: {"command": "a"}}}
    with pytest.raises(ConfigError, match="must have a non-empty printable id"):
        load_config(wrong)
    assert load_config({"mcpServers": {"s": {2: "a"}}}).errors


def test_the_home_of_a_user_that_does_not_exist_is_left_as_it_is() -> None:
    (spec,) = load_config({"mcpServers": {"s": {"command": "~nobody-has-this-name/a"}}}, strict=True).values()
    assert spec == StdioServer("~nobody-has-this-name/a")
    with pytest.raises(ConfigError, match="could not be read"):
        load_config("~nobody-has-this-name/servers.json")


def test_a_secret_that_came_into_a_command_by_a_variable_is_not_in_its_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    (spec,) = load_config({"mcpServers": {"s": {"command": "run-${TOKEN}"}}}, strict=True).values()
    assert repr(spec) == "StdioServer('run-***')"
