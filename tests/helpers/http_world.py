"""The servers of generated programs, behind URLs: one for each transport and protocol, in processes that outlast programs."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from helpers.http import SERVERS, fault
from helpers.programs import IDS
from mcp_pool import HttpServer, RestartPolicy, SseServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcp_pool import ServerConfig

OPTIONS = {"a": [], "b": ["--modern"], "c": []}
BROKEN = [fault("status", 503, on="handshake"), fault("status", 503, on="GET")]


@attrs.frozen
class HttpWorld:
    """Streamable HTTP in the legacy protocol (a) and the modern one (b), and SSE (c)."""

    processes: dict[str, subprocess.Popen[str]]
    ports: dict[str, int]

    def spec(self, server_id: str, *, other: bool = False) -> ServerConfig:
        origin = f"http://127.0.0.1:{self.ports[server_id]}"
        headers, policy = {"X-Which": "other"} if other else None, RestartPolicy(initial_delay=0.01)
        if server_id == "c":
            return SseServer(f"{origin}/sse", headers=headers, restart=policy)
        return HttpServer(f"{origin}/mcp", headers=headers, restart=policy)

    def instances(self, server_id: str) -> list[Any]:
        """What is running at the server cannot be seen from here."""
        return []

    def crash(self, server_id: str) -> None:
        """Forget the sessions, and reset all connections."""
        self._order(server_id, forget=True, drop="reset")

    def set_broken(self, server_id: str, *, broken: bool) -> None:
        self._order(server_id, faults=BROKEN if broken else [])

    def _order(self, server_id: str, **orders: Any) -> None:
        process = self.processes[server_id]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(orders) + "\n")
        process.stdin.flush()
        assert process.stdout.readline()


@contextmanager
def http_world() -> Iterator[HttpWorld]:
    """Start the servers, and end them."""
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for server_id in IDS:
            command = [sys.executable, "-I", "-S", str(SERVERS / "http_raw.py"), *OPTIONS[server_id], "--port", "0"]
            processes[server_id] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ports: dict[str, int] = {}
        for server_id, process in processes.items():
            assert process.stdout is not None
            ports[server_id] = int(process.stdout.readline())
        yield HttpWorld(processes, ports)
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
