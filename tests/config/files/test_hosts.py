"""Configuration files as the hosts write them, and the specs that they become."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mcp_pool import (
    ConfigError,
    HealthCheck,
    HttpServer,
    LoadedConfig,
    MCPPool,
    RestartPolicy,
    SseServer,
    StdioServer,
    load_config,
)
from mcp_pool.config.target import Target

if TYPE_CHECKING:
    from loguru import Message

HOSTS = Path(__file__).parent / "hosts"

EXPECTED: dict[str, dict[str, Any]] = {
    "claude_desktop": {
        "filesystem": StdioServer("npx", ["-y", "@modelcontextprotocol/server-filesystem", "/home/me/Desktop"]),
        "weather": StdioServer(
            "uv", ["--directory", "/home/me/weather", "run", "weather.py"], env={"API_KEY": "weather-secret"}
        ),
    },
    "claude_code": {
        "api-server": HttpServer("https://api.example.com/mcp", headers={"Authorization": "Bearer the-api-key"}),
        "local": StdioServer("/opt/tools/server"),
        "events": SseServer("https://events.example.com/sse"),
    },
    "cursor": {
        "local": StdioServer(
            "python",
            [f"{HOSTS}/tools/mcp_server.py"],
            env={"FROM_FILE": "a value", "OTHER": "1", "API_KEY": "the-api-key"},
        ),
        "remote": HttpServer("http://localhost:3000/mcp", headers={"API_KEY": "value-of-key"}),
    },
    "windsurf": {"figma": HttpServer("https://mcp.example.com/mcp", headers={"API_KEY": "Bearer the-api-key"})},
    "gemini": {
        "pythonTools": StdioServer(
            "python",
            ["-m", "my_mcp_server", "--port", "8080"],
            cwd="./mcp-servers/python",
            env={"DATABASE_URL": "$DB_CONNECTION_STRING", "API_KEY": "the-api-key"},
            call_timeout=15.0,
            include_tools=["safe_*"],
            exclude_tools=["safe_but_slow"],
        ),
        "httpServer": HttpServer(
            "http://localhost:3000/mcp", headers={"Authorization": "Bearer your-api-token"}, call_timeout=5.0
        ),
    },
    "vscode": {
        "perplexity": StdioServer(
            "npx", ["-y", "server-perplexity-ask"], env={"PERPLEXITY_API_KEY": "key for perplexity-key"}
        ),
        "fetch": HttpServer("https://fetch.example.com/mcp"),
    },
    "opencode": {
        "everything": StdioServer(
            "npx",
            ["-y", "@modelcontextprotocol/server-everything"],
            env={"MY_ENV_VAR": "my-env-var-value"},
            call_timeout=5.0,
        ),
        "remote": HttpServer("https://remote.example.com", headers={"Authorization": "Bearer remote-key"}),
    },
    "ours": {
        "all": StdioServer(
            "server",
            connect_timeout=1,
            call_timeout=2.5,
            max_call_time=None,
            close_timeout=3,
            restart=RestartPolicy(initial_delay=1, max_restarts=3),
            health=HealthCheck(interval=60),
            required=True,
            mode="legacy",
            max_in_flight=2,
            max_message_size=1000,
            include_tools=["a*"],
            exclude_tools=["ab"],
            retry_safe="annotated",
            on_changed="hold",
            pinned={"a": "1:0"},
        ),
        "streamable": HttpServer("https://one.example.com/mcp"),
        "camel": HttpServer("https://two.example.com/mcp"),
    },
}


def loaded(name: str, **options: Any) -> LoadedConfig:
    """What a file of a host contains."""
    return load_config(HOSTS / f"{name}.json", strict=True, **options)


def test_every_file_is_listed_here() -> None:
    assert {path.stem for path in HOSTS.glob("*.json")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_the_file_of_each_host_is_read_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "the-api-key")
    for variable in ("API_BASE_URL", "HOME_TOOLS"):
        monkeypatch.delenv(variable, raising=False)
    inputs = {"perplexity-key": "key for perplexity-key"}
    assert dict(loaded(name, inputs=inputs)) == EXPECTED[name]
    assert dict(loaded(name, inputs=inputs.get if name != "vscode" else "key for {}".format)) == EXPECTED[name]


def test_what_a_file_sets_for_the_whole_pool_can_be_overridden() -> None:
    config = loaded("ours")
    assert config.settings == {
        "wait_timeout": 5,
        "max_connecting": 2,
        "restart": RestartPolicy.never(),
        "health": None,
        "launch_limits": {"npx": 4, "docker": None},
    }
    assert len(config) == 3
    assert repr(config) == f"<LoadedConfig {str(HOSTS / 'ours.json')!r}: 'all', 'streamable', 'camel'>"
    pool = MCPPool.from_config(HOSTS / "ours.json", wait_timeout=7)
    assert (pool._supervisor.settings.wait_timeout, pool._supervisor.settings.max_connecting) == (7, 2)


def test_an_entry_of_opencode_needs_no_type() -> None:
    assert dict(load_config({"mcp": {"s": {"command": ["server", "-x"]}}})) == {"s": StdioServer("server", ["-x"])}


def test_a_spec_with_expanded_values_can_be_copied_and_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret-token")
    (spec,) = load_config({"mcpServers": {"s": {"command": "server", "args": ["${TOKEN}"]}}}).values()
    copied = pickle.loads(pickle.dumps(spec))
    assert copied == spec
    assert list(copied.secrets()) == ["secret-token"]


def test_the_settings_of_vs_code_may_contain_the_servers() -> None:
    inside = {"mcp": {"servers": {"s": {"command": "server"}}}}
    assert dict(load_config(inside)) == {"s": StdioServer("server")}


def test_keys_of_other_hosts_are_ignored_with_one_debug_line(record_logs: list[Message]) -> None:
    load_config({"mcpServers": {"s": {"command": "server", "alwaysAllow": [], "somethingElse": 1}}}, strict=True)
    (line,) = [line.record for line in record_logs]
    assert (line["level"].name, line["message"]) == (
        "DEBUG",
        "Server 's': keys of other hosts are ignored: 'alwaysAllow', 'somethingElse'",
    )


def test_values_that_came_from_variables_count_as_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret-token")
    monkeypatch.setenv("HOME_DIRECTORY", "secret-place")
    entries = {
        "program": {"command": "server", "args": ["--token=${TOKEN}"], "cwd": "/${HOME_DIRECTORY}"},
        "url": {"url": "https://example.com/${TOKEN}/mcp"},
    }
    for server_id, spec in load_config({"mcpServers": entries}, strict=True).items():
        pool = MCPPool()
        target = Target.of(pool._supervisor.settings, server_id, spec)
        assert target.redactor.text("see secret-token and more") == "see *** and more"


def test_a_tilde_in_a_command_or_directory_is_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (spec,) = load_config(
        {"mcpServers": {"s": {"command": "~/bin/server", "args": ["~", "${userHome}"], "cwd": "~"}}}, strict=True
    ).values()
    assert spec == StdioServer("/home/me/bin/server", ["~", "/home/me"], cwd="/home/me")


async def test_a_plain_mapping_is_accepted_wherever_a_spec_is() -> None:
    plain: dict[str, Any] = {"command": sys.executable, "args": ["-c", "pass"]}
    off = {**plain, "disabled": True}
    async with MCPPool({"one": plain}) as pool:
        pool.add("two", plain)
        assert pool.server("one").config == pool.server("two").config == StdioServer(sys.executable, ["-c", "pass"])
        for use in (pool.connect, pool.replace):
            with pytest.raises(ConfigError, match="one.disabled says that the server is disabled"):
                await use("one", off)
        with pytest.raises(ConfigError, match=r"Did you mean 'command'\?"):
            pool.add("three", {"comand": "x"})
