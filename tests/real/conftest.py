"""The servers that `nox -s real` has installed, and what each of them needs."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from mcp_pool import HttpServer, SseServer, StdioServer
from servers.http_wire import listening

PATIENCE = 60.0
"""Seconds for a program to start listening: its first start after the installation reads from a cold disk."""

Spec = HttpServer | SseServer | StdioServer


@attrs.define(eq=False)
class Program:
    """A server that listens on a port, in a process that the test starts, not the pool.

    Nothing here is async: while it starts, the event loop is blocked, and the pool notices nothing.
    """

    command: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it on its port, and try to connect until it listens."""
        variables = {**os.environ, "PORT": str(self.port)}
        # It writes to the test's own streams, so that pytest shows its output.
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, env=variables)
        deadline = time.monotonic() + PATIENCE
        while not self.listens():
            assert self.process.poll() is None, f"{self.command} ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"{self.command} does not listen"
            time.sleep(0.01)  # trying is the only way to know whether another program listens

    def kill(self) -> None:
        """Kill its process, as an operator or the system would, and wait for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def listens(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True


@pytest.fixture(scope="session")
def installed() -> dict[str, dict[str, object]]:
    """Map `time`, `git`, `everything`, `filesystem` and `memory` to their commands and arguments."""
    where = os.environ.get("MCP_POOL_REAL")
    if where is None:
        pytest.fail("these tests need servers that `nox -s real` installs")
    return json.loads(Path(where).read_text())


@pytest.fixture
def programs(installed) -> Iterator[dict[str, Program]]:
    """Map `everything-http` and `everything-sse` to processes that listen."""
    everything = [installed["everything"]["command"], *installed["everything"]["args"]]
    running = {}
    with ExitStack() as ends:
        for server_id, wire in {"everything-http": "streamableHttp", "everything-sse": "sse"}.items():
            with listening(listen=False) as free:
                program = running[server_id] = Program([*everything, wire], free.getsockname()[1])
            ends.callback(program.kill)
            program.start()
        yield running


@pytest.fixture
def real_servers(installed, programs, tmp_path) -> dict[str, Spec]:
    """Map all of them to specs; their files are in `tmp_path`."""
    subprocess.run(["git", "init", "-q", str(tmp_path / "repository")], check=True)
    (tmp_path / "hello.txt").write_text("hello")
    arguments = {"filesystem": [str(tmp_path)]}
    variables = {"memory": {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}}
    return {
        **{
            name: StdioServer(server["command"], server["args"] + arguments.get(name, []), env=variables.get(name))
            for name, server in installed.items()
        },
        "everything-http": HttpServer(f"http://127.0.0.1:{programs['everything-http'].port}/mcp"),
        "everything-sse": SseServer(f"http://127.0.0.1:{programs['everything-sse'].port}/sse"),
    }
