"""`sdk_http.py` with the tools of `sdk_tools.py`: the SDK's own server, over streamable HTTP and HTTP+SSE.

python by_sdk.py LEDGER --port N
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "servers"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import anyio
import uvicorn
from http_wire import listening
from mcp.server.transport_security import TransportSecuritySettings
from sdk_http import ConnectLimiter, exit_with_parent, parse_options
from sdk_tools import MarkedServer


def write(ledger: int, ticket: str) -> None:
    """Record a ticket."""
    os.write(ledger, ticket.encode() + b"\n")


async def serve(ledger: int) -> None:
    """Listen, print the port, and serve until SIGTERM."""
    options = parse_options()
    server = MarkedServer(partial(write, ledger)).server
    any_host = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(transport_security=any_host)
    app.router.routes.extend(server.sse_app(transport_security=any_host).routes)
    taken = listening(options.port)
    sys.stdout.write(f"{taken.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=exit_with_parent, daemon=True).start()
    config = uvicorn.Config(ConnectLimiter(app, options), log_level="critical", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[taken])


if __name__ == "__main__":
    anyio.run(serve, os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
