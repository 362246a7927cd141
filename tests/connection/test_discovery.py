"""What a modern server said about itself is kept for the next connection, for as long as it is valid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from helpers.common import scripted
from helpers.stdio import methods
from mcp_pool import MCPPool

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ASKED, LISTED = "server/discover", "tools/list"


async def test_a_reconnect_needs_only_a_listing_until_what_the_server_said_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("mcp_pool.connection.discovery.anyio", SimpleNamespace(current_time=lambda: clock.now))
    spec = scripted("--modern", "--discover-ttl", 60_000, "--ledger", tmp_path / "ledger")
    async with MCPPool({"s": spec}, health=None) as pool:
        info = pool.server("s").info
        for clock.now in (40.0, 70.0, 100.0):  # each reconnect is within 60 s of the one before
            await pool.server("s").restart()
            assert pool.server("s").info == info
    assert methods(tmp_path / "ledger") == [[ASKED, LISTED], [LISTED], [ASKED, LISTED], [LISTED]]


async def test_a_server_that_names_no_lifetime_is_asked_once(tmp_path: Path) -> None:
    spec = scripted("--modern", "--discover-ttl", 0, "--ledger", tmp_path / "ledger")
    async with MCPPool({"s": spec}, health=None) as pool:
        await pool.server("s").restart()
    assert methods(tmp_path / "ledger") == [[ASKED, LISTED], [LISTED]]


async def test_a_server_with_a_chosen_version_is_never_asked(tmp_path: Path) -> None:
    spec = scripted("--modern", "--ledger", tmp_path / "ledger", mode="2026-07-28")
    async with MCPPool({"s": spec}, health=None) as pool:
        await pool.server("s").restart()
    first, second = methods(tmp_path / "ledger")
    assert sorted(first) == sorted(second)  # the parts are listed in parallel
    assert ASKED not in first
