"""Helpers for tests of HTTP and SSE: servers in separate processes, certificates, and what arrived at a server.

async with raw_server("--modern", ledger=ledger) as server:
    HttpServer(server.url) ...
    await server.misbehave(fault("status", 503, on="tools/call:echo", times=1))
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import trustme
from anyio.streams.buffered import BufferedByteReceiveStream

from helpers.common import PATIENCE, eventually
from servers import read_lines
from servers.http_wire import listening

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import Process

SERVERS = Path(__file__).parents[1] / "servers"
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a server."""


def fault(
    do: str,
    value: Any = None,
    *,
    on: str = "*",
    first: int = 1,
    times: int | None = None,
    every: int = 1,
    after: bool = False,
) -> dict[str, Any]:
    """A rule for `http_raw.py`; see `servers/http_faults.py`."""
    return {"do": do, "value": value, "on": on, "first": first, "times": times, "every": every, "after": after}


@attrs.define(eq=False)
class ServerProcess:
    """A server in a separate process, which can be killed and started again on its port."""

    command: Sequence[str]
    secure: bool = False
    port: int = 0
    process: Process | None = None
    lines: BufferedByteReceiveStream | None = None
    turn: anyio.Lock = attrs.Factory(anyio.Lock)

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint of streamable HTTP."""
        return f"{self.origin}/mcp"

    @property
    def sse_url(self) -> str:
        """The endpoint of the HTTP+SSE transport."""
        return f"{self.origin}/sse"

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None, "it is not running"
        return self.process.pid

    async def start(self) -> None:
        """Start it, on its earlier port if it had one, and wait until it listens."""
        command = [*self.command, "--port", str(self.port)]
        # It shares the test's standard error, so that pytest shows its output.
        self.process = await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        assert self.process.stdout is not None
        self.lines = BufferedByteReceiveStream(self.process.stdout)
        self.port = int(await self._line())

    async def kill(self) -> None:
        """Kill it, and wait until it has exited."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Terminate it, and wait until it has exited; kill it if that takes too long."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """Kill it, and start it again on the same port."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """Suspend the process: connections stay open, and nothing happens. `stop` and `kill` still work."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def order(self, **orders: Any) -> dict[str, Any]:
        """Send commands to `http_raw.py` (see its `control`), if there are any, and return its state."""
        async with self.turn:
            assert self.process is not None
            assert self.process.stdin is not None
            await self.process.stdin.send(json.dumps(orders).encode() + b"\n")
            return json.loads(await self._line())

    async def misbehave(self, *faults: dict[str, Any]) -> None:
        """Make `http_raw.py` follow only these rules from now on; without any, it behaves well."""
        await self.order(faults=faults)

    async def _line(self) -> bytes:
        assert self.lines is not None
        with anyio.fail_after(PATIENCE):
            return await self.lines.receive_until(b"\n", 1_000_000)

    async def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                process.send_signal(how)
                process.send_signal(signal.SIGCONT)
            with anyio.move_on_after(GRACE):
                await process.wait()
            with suppress(ProcessLookupError):
                process.kill()
            await process.aclose()


@asynccontextmanager
async def running(server: ServerProcess) -> AsyncIterator[ServerProcess]:
    """Start a server, and end it at the end, if necessary by killing it."""
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


def raw_server(
    *options: object,
    ledger: str | os.PathLike[str] | None = None,
    faults: Sequence[dict[str, Any]] = (),
    tls: Tls | None = None,
    port: int = 0,
) -> AbstractAsyncContextManager[ServerProcess]:
    """`servers/http_raw.py`, which misbehaves, with these options."""
    command = [sys.executable, "-I", "-S", str(SERVERS / "http_raw.py"), *map(str, options)]
    for rule in faults:
        command += ["--fault", json.dumps(rule)]
    return running(ServerProcess([*command, *common(ledger, tls)], secure=tls is not None, port=port))


def sdk_server(
    *options: object, ledger: str | os.PathLike[str] | None = None, tls: Tls | None = None, port: int = 0
) -> AbstractAsyncContextManager[ServerProcess]:
    """`servers/sdk_http.py`, the SDK's own server, with these options."""
    command = [sys.executable, str(SERVERS / "sdk_http.py"), *map(str, options), *common(ledger, tls)]
    return running(ServerProcess(command, secure=tls is not None, port=port))


def arrived(
    ledger: str | os.PathLike[str], what: str | None = None, *, tool: str | None = None
) -> list[dict[str, Any]]:
    """The requests that arrived at a server, over all its starts: all, those of a verb or a method, or those of a tool."""
    requests = [line for line in read_lines(ledger) if "verb" in line]
    return [line for line in requests if what in (None, line["verb"], line["method"]) and tool in (None, line["tool"])]


def ran(ledger: str | os.PathLike[str], tool: str) -> int:
    """How often `http_raw.py` has run a tool, over all its starts."""
    return sum(line.get("ran") == tool for line in read_lines(ledger))


def given_up(ledger: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The messages (method, id, tool) whose response the client of `http_raw.py` did not wait for."""
    return [line["gone"] for line in read_lines(ledger) if "gone" in line]


async def arrival(
    ledger: str | os.PathLike[str], what: str | None = None, *, tool: str | None = None, count: int = 1
) -> None:
    """Wait until this many of them have arrived."""
    await eventually(lambda: len(arrived(ledger, what, tool=tool)) >= count)


def common(ledger: str | os.PathLike[str] | None, tls: Tls | None) -> list[str]:
    """The options that both kinds have."""
    options = [] if ledger is None else ["--ledger", str(ledger)]
    return options if tls is None else [*options, "--certfile", str(tls.certfile), "--keyfile", str(tls.keyfile)]


@contextmanager
def refused_port() -> Iterator[int]:
    """A port that refuses every connection, and that no other program can use meanwhile."""
    with listening(listen=False, shared=False) as held:
        yield held.getsockname()[1]


@attrs.frozen
class Tls:
    """A certificate for localhost and 127.0.0.1, and the authority that issued it."""

    ca: Path
    """The authority's certificate, for `SSL_CERT_FILE` or `ssl.create_default_context(cafile=…)`."""
    certfile: Path
    keyfile: Path


def tls(directory: Path) -> Tls:
    """Create an authority and a certificate, in files in a directory."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = Tls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(str(files.ca))
    certificate.private_key_pem.write_to_path(str(files.keyfile))
    files.certfile.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return files
