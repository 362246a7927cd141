"""Processes behind a URL, each with many servers of the pool, and the proxies in front of them."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from helpers.http import ServerProcess, running

SERVERS = Path(__file__).with_name("servers")


@attrs.define(eq=False)
class Host:
    """A process that listens on a port, and its proxy."""

    name: str
    process: ServerProcess
    ledger: Path
    """Where it records the calls that ran."""
    raw: bool
    """Whether it is `http_raw.py`, which misbehaves on demand."""
    proxies: Proxies
    number: int
    """The port of its proxy."""

    @property
    def origin(self) -> str:
        """What the pool connects to: the proxy, or the process itself if it gets no faults, not even those of the proxies."""
        if "quiet" in self.name:
            return self.process.origin
        return f"http://127.0.0.1:{self.proxies.ports[self.number]}"

    async def disturb(self, action: str, value: Any = None) -> None:
        """Do something to the connections; see `servers/proxies.py`."""
        await self.proxies.process.order(proxy=self.number, do=action, value=value)


@attrs.define(eq=False)
class Proxies:
    """The process of all proxies."""

    process: ServerProcess
    ports: Sequence[int] = ()


def program(name: str, ledger: Path, *options: str) -> ServerProcess:
    """A server process from `servers/`; one that needs only the standard library starts faster without site packages."""
    bare = () if name == "by_sdk.py" else ("-I", "-S")
    return ServerProcess([sys.executable, *bare, str(SERVERS / name), str(ledger), *options])


@asynccontextmanager
async def hosts(directory: Path, kinds: Sequence[tuple[str, str, tuple[str, ...]]]) -> AsyncGenerator[list[Host]]:
    """Run processes, and a proxy to each of them.

    Args:
        directory: Where to put the ledgers.
        kinds: For each process its name, its program and the program's options.
    """
    async with AsyncExitStack() as stack:
        proxies = Proxies(ServerProcess([]))
        found: list[Host] = []
        for number, (name, file, options) in enumerate(kinds):
            ledger = directory / f"{name}.ledger"
            process = await stack.enter_async_context(running(program(file, ledger, *options)))
            found.append(Host(name, process, ledger, file == "by_http.py", proxies, number))
        ports = [str(host.process.port) for host in found]
        proxies.process.command = [sys.executable, str(SERVERS / "proxies.py"), *ports]
        await stack.enter_async_context(running(proxies.process))
        proxies.ports = (await proxies.process.order())["ports"]
        yield found
