"""Many proxies of `tcp_proxy.py` in a separate process, so that their work and memory do not count for the pool.

    python proxies.py PORT ... --port 0

The first line on stdout is a number, as for every server here. Each line on stdin is a command as a JSON object, which
is answered by a line with the ports of all proxies. A command is about one of them: `{"proxy": 0, "do": "cut"}`.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import anyio
from anyio.to_thread import run_sync

from servers.tcp_proxy import Deed, Plan, TcpProxy, tcp_proxy

FORGETTING = 1.0
"""How often ended connections are forgotten, in seconds: a proxy keeps them all, and what they sent."""


def restore(proxy: TcpProxy) -> None:
    """Let all data through, and accept all connections."""
    proxy.always = Plan()
    proxy.plans.clear()
    proxy.accept()
    for connection in proxy.open:
        connection.resume()


def carry_out(proxy: TcpProxy, action: str, value: Any) -> None:
    """Do something to all connections of a proxy, or to future ones."""
    at_once: dict[str, Deed] = {
        "cut": "cut",
        "reset": "reset",
        "half_close": "half_close",
        "stall": "stall",
        "refuse": "reset",
    }
    match action:
        case "restore":
            restore(proxy)
        case "stall":
            proxy.always = Plan(deed="stall")
        case "slow":
            proxy.always = Plan(delay=value)
        case "truncate":
            proxy.next(Plan(deed="cut", received=value))
        case "refuse":
            proxy.refuse()
        case _:
            pass
    if action in at_once:
        for connection in proxy.open:
            connection.do(at_once[action])


async def forget(proxies: list[TcpProxy]) -> None:
    """Forget the connections that have ended."""
    while True:
        await anyio.sleep(FORGETTING)
        for proxy in proxies:
            proxy.connections[:] = proxy.open


async def serve(targets: list[int]) -> None:
    """Run a proxy to each of these ports until stdin ends."""
    async with anyio.create_task_group() as group, AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(tcp_proxy(target)) for target in targets]
        group.start_soon(forget, proxies)
        print(0, flush=True)
        while line := await run_sync(sys.stdin.readline):
            order = json.loads(line)
            if order:
                carry_out(proxies[order["proxy"]], order["do"], order.get("value"))
            print(json.dumps({"ports": [proxy.port for proxy in proxies]}), flush=True)
        group.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Proxies that disturb the traffic that passes through them.")
    parser.add_argument("targets", type=int, nargs="+")
    parser.add_argument("--port", help="not used: each proxy takes a free one")
    anyio.run(serve, parser.parse_args().targets)
