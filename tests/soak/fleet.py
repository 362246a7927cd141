"""The servers of the soak test: all transports, both protocols, retry-safe or not, with and without faults."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import attrs

from mcp_pool import ClientCallbacks, HttpServer, InProcessServer, MCPPool, ServerConfig, SseServer, StdioServer
from soak import bounds
from soak.hosts import Host, hosts
from soak.servers.sdk_tools import MarkedServer

SERVERS = Path(__file__).with_name("servers")

HOSTS: Final = (
    ("raw-both-1", "by_http.py", ("--modern",)),
    ("raw-both-2", "by_http.py", ("--modern", "--stream")),
    ("raw-legacy-1", "by_http.py", ()),
    ("raw-legacy-2", "by_http.py", ("--stream", "--event-ids")),
    ("sdk-1", "by_sdk.py", ()),
    ("sdk-2", "by_sdk.py", ()),
    ("raw-quiet", "by_http.py", ("--modern",)),
    ("sdk-quiet", "by_sdk.py", ()),
)
"""The processes behind a URL. Those with "quiet" in their names get no faults."""

STDIO: Final = (
    *((), ("--modern",)) * 4,
    ("--helper",),
    ("--modern", "--stubborn", "--helper"),
    ("--slow-exit", "0.3"),
    ("--modern", "--die-after-handshake", "20"),
)
"""The options of the stdio servers with faults."""

RESENDS_ALLOWED: Final = ((), ("safe",), "annotated")
"""The values of `retry_safe`: none, by name, by the server's annotations."""


@attrs.define(eq=False)
class Target:
    """One server of the pool, and what is known about it outside the pool."""

    server_id: str
    spec: ServerConfig
    wire: str
    """`stdio`, `http`, `sse` or `in process`."""
    ledger: str
    """The name of the ledger of its calls."""
    host: Host | None = None
    """The process behind its URL, if it has one."""
    marked: MarkedServer | None = None
    """The server itself, if it is in-process."""
    removals: int = 0
    """How often it was removed from the pool or added again: odd while it is removed."""

    @property
    def quiet(self) -> bool:
        """Whether it gets no faults, so that no call to it may fail."""
        return "quiet" in self.server_id

    @property
    def behind(self) -> Host:
        """The process behind its URL, which it must have."""
        if self.host is None:
            raise LookupError(f"{self.server_id} is not behind a URL")
        return self.host

    @property
    def raw(self) -> bool:
        """Whether it is one of our own servers that misbehave, not the SDK's."""
        return self.wire == "stdio" or (self.host is not None and self.host.raw)

    def runs_allowed(self, tool: str) -> int:
        """How often a call to a tool may run."""
        retry_safe = self.spec.retry_safe
        again = tool == "safe" if retry_safe == "annotated" else any(fnmatchcase(tool, glob) for glob in retry_safe)
        return 1 + bounds.RESENDS * again


def pool_of(
    targets: Sequence[Target], *, open_timeout: float, callbacks: Callable[[str], ClientCallbacks] | None = None
) -> MCPPool:
    """A pool of servers in which every limit is short."""
    return MCPPool(
        {target.server_id: target.spec for target in targets},
        connect_timeout=bounds.CONNECT_TIMEOUT,
        open_timeout=open_timeout,
        wait_timeout=bounds.WAIT_TIMEOUT,
        call_timeout=bounds.CALL_TIMEOUT,
        max_call_time=bounds.MAX_CALL_TIME,
        close_timeout=bounds.CLOSE_TIMEOUT,
        restart=bounds.RESTART,
        health=bounds.HEALTH,
        callbacks=callbacks,
    )


def common(number: int, *, quiet: bool) -> dict[str, Any]:
    """The fields of the spec of a server."""
    if quiet:
        own = {"call_timeout": bounds.QUIET_CALL_TIMEOUT, "health": bounds.QUIET_HEALTH}
        return {**own, "max_call_time": bounds.QUIET_CALL_TIMEOUT, "max_message_size": bounds.MAX_MESSAGE_SIZE}
    return {
        "max_message_size": bounds.MAX_MESSAGE_SIZE,
        "retry_safe": RESENDS_ALLOWED[number % len(RESENDS_ALLOWED)],
        "max_in_flight": bounds.MAX_IN_FLIGHT if number % 2 else None,
    }


def over_stdio(directory: Path, numbers: count[int]) -> list[Target]:
    """The stdio servers."""
    found: list[Target] = []
    for quiet, options in [*((False, options) for options in STDIO), (True, ()), (True, ("--modern",))]:
        number = next(numbers)
        protocol = "modern" if "--modern" in options else "legacy"
        server_id = f"stdio-{'quiet-' if quiet else ''}{protocol}-{number}"
        ledger = directory / f"{server_id}.ledger"
        args = ["-I", "-S", str(SERVERS / "by_stdio.py"), str(ledger), *options]
        spec = StdioServer(sys.executable, args, **common(number, quiet=quiet))
        found.append(Target(server_id, spec, "stdio", ledger.name))
    return found


def over_http(host: Host, numbers: count[int]) -> list[Target]:
    """The servers of one process behind a URL: both protocols over streamable HTTP, if it has them, and SSE."""
    found: list[Target] = []
    protocols = ("legacy", "sse") if "legacy" in host.name else ("legacy", "auto", "sse")
    for protocol in protocols:
        number = next(numbers)
        server_id = f"{host.name}-{'modern' if protocol == 'auto' else protocol}-{number}"
        fields = common(number, quiet="quiet" in host.name)
        spec: ServerConfig
        if protocol == "sse":
            spec = SseServer(f"{host.origin}/{server_id}/sse", **fields)
        else:
            spec = HttpServer(f"{host.origin}/{server_id}/mcp", mode=protocol, **fields)
        found.append(Target(server_id, spec, "sse" if protocol == "sse" else "http", host.ledger.name, host))
    return found


def in_process(directory: Path, numbers: count[int], note: Callable[[Path, str], None]) -> list[Target]:
    """The in-process servers."""
    found: list[Target] = []
    for quiet, protocol in ((False, "legacy"), (False, "auto"), (False, "legacy"), (False, "auto"), (True, "auto")):
        number = next(numbers)
        server_id = f"inner-{'quiet-' if quiet else ''}{'modern' if protocol == 'auto' else protocol}-{number}"
        ledger = directory / f"{server_id}.ledger"
        marked = MarkedServer(partial(note, ledger))
        spec = InProcessServer(marked.server, mode=protocol, **common(number, quiet=quiet))
        found.append(Target(server_id, spec, "in process", ledger.name, marked=marked))
    return found


def append(ledger: Path, ticket: str) -> None:
    """Record a ticket, without keeping a file open."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, ticket.encode() + b"\n")
    os.close(descriptor)


@asynccontextmanager
async def fleet(directory: Path) -> AsyncGenerator[list[Target]]:
    """Run the processes behind URLs, and yield all servers.

    Args:
        directory: Where to put the ledgers.
    """
    async with hosts(directory, HOSTS) as behind:
        numbers = count(1)
        yield [
            *over_stdio(directory, numbers),
            *(target for host in behind for target in over_http(host, numbers)),
            *in_process(directory, numbers, append),
        ]
