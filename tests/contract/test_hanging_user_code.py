"""User code that hangs: only what it serves waits, no longer than its own time allows, and it is cancelled then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from helpers.common import eventually
from helpers.http import raw_server
from helpers.http_calls import in_flight
from helpers.user_code import BAD, PLACES, behind, is_bad, pool_with_a_good_server, stands
from mcp_pool import CallTimeout, ConnectTimeout, InProcessServer
from servers.in_process import calculator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx2

SHORT = 0.3
"""A bound that is waited for."""


def hanging(ended: list[str], when: Callable[[httpx2.Request], bool]) -> Callable[[httpx2.Request], Awaitable[None]]:
    """User code that hangs for some requests, and records that it was cancelled."""

    async def hang(request: httpx2.Request) -> None:
        if when(request):
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(request.method)

    return hang


@pytest.mark.parametrize("place", PLACES)
async def test_user_code_that_hangs_ends_with_its_call_and_delays_no_other(place: str, tmp_path: Path) -> None:
    ledger, ended = tmp_path / "ledger", list[str]()
    async with (
        raw_server(ledger=ledger) as server,
        behind(server.url, place, hanging(ended, is_bad)) as spec,
        pool_with_a_good_server() as pool,
    ):
        await pool.connect("s", spec)
        async with in_flight(pool, ledger, count=1):
            with pytest.raises(CallTimeout):
                await pool.call_tool("s__echo", {"text": BAD}, timeout=SHORT)
            await eventually(lambda: ended)
        assert stands(pool)


@pytest.mark.parametrize("place", PLACES)
async def test_user_code_that_hangs_in_the_handshake_ends_with_its_attempt(place: str) -> None:
    ended = list[str]()
    async with (
        raw_server() as server,
        behind(server.url, place, hanging(ended, lambda _request: True), connect_timeout=SHORT) as spec,
        pool_with_a_good_server() as pool,
    ):
        with pytest.raises(ConnectTimeout):
            await pool.connect("s", spec)
        await eventually(lambda: ended)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_tool_of_an_in_process_server_that_hangs_ends_with_its_call(mode: str) -> None:
    server, ended = calculator(), list[str]()

    @server.tool()
    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("tool")

    async with pool_with_a_good_server() as pool:
        await pool.connect("s", InProcessServer(server, mode=mode))
        with pytest.raises(CallTimeout):
            await pool.call_tool("s__hang", timeout=SHORT)
        await eventually(lambda: ended)
        assert stands(pool)
