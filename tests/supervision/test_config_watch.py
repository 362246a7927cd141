"""Following a configuration file: changes are applied, and a broken file is told."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from helpers.common import eventually, scripted
from mcp_pool import ConfigError, ConfigRejected, MCPPool
from mcp_pool.supervision.config_watch import _Watch

if TYPE_CHECKING:
    from pathlib import Path

    from loguru import Message


def entry(*options: str) -> dict[str, Any]:
    """The entry of a server."""
    spec = scripted(*options)
    return {"command": spec.command, "args": list(spec.args)}


def write(path: Path, content: object) -> None:
    """Write a file as editors do: another one is renamed."""
    new = path.with_suffix(".new")
    new.write_text(content if isinstance(content, str) else json.dumps({"mcpServers": content}))
    new.rename(path)


async def test_a_file_is_followed_and_what_is_unchanged_is_not_disturbed(
    tmp_path: Path, record_logs: list[Message]
) -> None:
    path = tmp_path / "servers.json"
    write(path, {"same": entry(), "gone": entry()})
    async with MCPPool() as pool, pool.events() as events, pool.watch_config(path):
        assert list(pool.servers) == ["same", "gone"]
        await pool.wait_ready()
        process = pool.snapshot().servers["same"].process_id
        write(path, {"same": entry(), "new": entry("--modern")})
        await eventually(lambda: list(pool.servers) == ["same", "new"])
        await pool.wait_ready()
        (tmp_path / "another file").write_text("changes nothing")
        write(path, "{ not JSON")
        rejected = next(iter([event async for event in until_rejected(events)]))
        assert rejected.path == str(path)
        assert "not JSON" in str(rejected.error)
        path.unlink()
        rejected = next(iter([event async for event in until_rejected(events)]))
        assert "could not be read" in str(rejected.error)
        assert list(pool.servers) == ["same", "new"]
        write(path, {"same": entry()})
        await eventually(lambda: list(pool.servers) == ["same"])
        assert pool.snapshot().servers["same"].process_id == process
    told = [line.record["message"] for line in record_logs]
    assert f"The servers of {path} were applied" in told
    assert any(line.startswith(f"{path} has changed, but was not applied. {path}:1:3: not JSON") for line in told)


async def until_rejected(events: Any) -> Any:
    """The next rejection."""
    with anyio.fail_after(60):
        async for event in events:
            if isinstance(event, ConfigRejected):
                yield event
                return


async def test_an_invalid_file_is_an_error_before_anything_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    write(path, {"a": {"comand": "x"}, "b": entry()})
    async with MCPPool() as pool:
        with pytest.raises(ConfigError, match="1 invalid server: 'a'"):
            async with pool.watch_config(path):
                pass
        assert not pool.servers


async def test_the_error_of_the_body_leaves_as_it_is(tmp_path: Path) -> None:
    path, mine = tmp_path / "servers.json", ValueError("mine")
    write(path, {})
    async with MCPPool() as pool:
        with pytest.raises(ValueError, match="mine") as caught:
            async with pool.watch_config(path):
                raise mine
        assert caught.value is mine
        with pytest.raises(SystemExit):
            async with pool.watch_config(path):
                sys.exit(3)


async def test_the_watch_ends_quietly_with_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "servers.json"
    write(path, {})
    pool = MCPPool()
    async with anyio.create_task_group() as group:
        opened, may_end = anyio.Event(), anyio.Event()

        async def watch() -> None:
            async with pool.watch_config(path):
                opened.set()
                await may_end.wait()

        async with pool:
            group.start_soon(watch)
            await opened.wait()
        follow, followed = _Watch._follow, anyio.Event()

        async def follow_once(watch: _Watch) -> bool:
            goes_on = await follow(watch)
            followed.set()
            return goes_on

        monkeypatch.setattr(_Watch, "_follow", follow_once)
        write(path, {"a": entry()})
        await followed.wait()
        may_end.set()


async def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_pool.supervision.config_watch.find_spec", lambda _: None)
    async with MCPPool() as pool:
        with pytest.raises(ConfigError, match=r"mcp-pool-supervisor\[watch\]"):
            async with pool.watch_config(tmp_path / "servers.json"):
                pass
