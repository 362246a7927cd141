"""A program that leaves a pool with stdio servers in unusual ways. Run as `leaving_host.py OPTIONS`, OPTIONS being JSON.

It prints a line when the pool is open and one when the body has ended. The test sends signals meanwhile. When the event
loop is gone, it prints as JSON which processes of its servers are running, which of its children are zombies, and the
log. It does this before it exits, so that no guardian can have done the work.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
import uvloop
from loguru import logger

from mcp_pool import MCPPool, StdioServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

OPTIONS = json.loads(sys.argv[1])
opened = asyncio.Event()
closing = asyncio.Event()


async def hold_pool(sleep: Callable[[float], Coroutine[Any, Any, None]]) -> None:
    servers = {
        name: StdioServer(command, arguments, close_timeout=close_timeout)
        for name, (command, arguments, close_timeout) in OPTIONS["servers"].items()
    }
    async with MCPPool(servers, open_timeout=None) as pool:
        await pool.wait_ready()
        opened.set()
        try:
            print("open", flush=True)
            await sleep(1000)
        finally:
            closing.set()
            print("closing", flush=True)


async def return_while_it_is_open() -> None:
    task = asyncio.create_task(hold_pool(asyncio.sleep))
    await opened.wait()
    del task


async def return_while_it_is_closing() -> None:
    task = asyncio.create_task(hold_pool(asyncio.sleep))
    await opened.wait()
    task.cancel()
    await closing.wait()
    await asyncio.sleep(0.2)


def abandon(loop: asyncio.AbstractEventLoop, *, closing: bool) -> None:
    """Stop a loop for ever, its tasks in the middle of what they do."""
    loop.run_until_complete(return_while_it_is_closing() if closing else return_while_it_is_open())
    loop.close()


def run() -> None:
    backend, how = OPTIONS["backend"], OPTIONS["how"]
    if backend == "trio":
        trio.run(hold_pool, trio.sleep)
        return
    new_loop = uvloop.new_event_loop if backend == "asyncio+uvloop" else asyncio.new_event_loop
    if how in ("abandon", "abandon while closing"):
        abandon(new_loop(), closing=how != "abandon")
        return
    with asyncio.Runner(loop_factory=new_loop) as runner:
        main = {"return": return_while_it_is_open, "return while closing": return_while_it_is_closing}.get(how)
        try:
            runner.run(hold_pool(asyncio.sleep) if main is None else main())
        finally:  # the tests interrupt it until that has taken effect; one more would abandon the loop
            ignore_signals()


def ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def state(pid: int) -> tuple[str, int]:
    """The state and the parent of a process; X where it is gone."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[1])


logged: list[str] = []
logger.remove()
logger.enable("mcp_pool")
logger.add(lambda message: logged.append(message.record["message"]), level="WARNING")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, where it is ignored
with suppress(BaseException):
    run()
ignore_signals()
gc.collect()
servers = [json.loads(line)["pid"] for line in Path(OPTIONS["pids"]).read_text().splitlines()]
# A process that was sent SIGKILL needs the processor once more to end. Nothing else would end these. Servers that were
# abandoned end with this program.
deadline = time.monotonic() + (0 if OPTIONS["how"].startswith("abandon") else 30)
while (running := [pid for pid in servers if state(pid)[0] not in "ZX"]) and time.monotonic() < deadline:
    time.sleep(0.01)
everything = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
zombies = [pid for pid in everything if state(pid) == ("Z", os.getpid())]
print(json.dumps({"running": running, "zombies": zombies, "log": logged}), flush=True)
