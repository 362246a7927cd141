"""The SDK's own server under uvicorn: streamable HTTP of both protocols at /mcp, the old transport at /sse.

    python sdk_http.py [option ...]

It has the tools of `in_process.py`: add, echo, sleep, fail, progress. Any path that ends in /mcp or /sse works
(`/a/mcp`). The first line on stdout is the port. At the end of stdin the process exits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - as in `http_raw.py`

import anyio
import uvicorn
from http_wire import listening
from in_process import calculator, growing
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from misbehaving import append
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Memory(EventStore):
    """Stores all events of all streams, for clients that resume."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Store an event under its number."""
        self.events.append((stream_id, message))
        return str(len(self.events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send the events after a given one on its stream."""
        stream = self.events[int(last_event_id)][0]
        for number, (stream_id, message) in enumerate(self.events[int(last_event_id) + 1 :], int(last_event_id) + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class ConnectLimiter:
    """A layer before the server: the ledger, the check of the token, and the rejection of the modern protocol."""

    def __init__(self, app: ASGIApp, options: argparse.Namespace) -> None:
        self.app = app
        self.options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path: str = scope["path"]
        body = b""
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.note(scope["method"], path, headers, body)
        refusal = self.refusal(headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        replayed = False

        async def again() -> Message:
            nonlocal replayed
            if replayed or scope["method"] != "POST":
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        for place in ("/mcp", "/sse", "/messages/"):
            if path.endswith(place):
                scope = {**scope, "path": place, "raw_path": place.encode(), "root_path": path.removesuffix(place)}
        await self.app(scope, again, send)

    def refusal(self, headers: dict[str, str]) -> Response | None:
        """The response to a request that is rejected."""
        if self.options.token and headers.get("authorization") != f"Bearer {self.options.token}":
            return JSONResponse({"error": "invalid_token"}, 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        version = headers.get("mcp-protocol-version", HANDSHAKE_PROTOCOL_VERSIONS[-1])
        if self.options.legacy_only and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            # The SDK's response before it supported the modern protocol.
            error = {"code": -32600, "message": f"Bad Request: Unsupported protocol version: {version}"}
            return JSONResponse({"jsonrpc": "2.0", "id": "server-error", "error": error}, 400)
        return None

    def note(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> None:
        """Record what arrived, like `http_raw.py`."""
        try:
            message = json.loads(body or b"{}")
        except ValueError:
            message = {}
        method = message.get("method")
        tool = (message.get("params") or {}).get("name") if method == "tools/call" else None
        shown = {"session": "mcp-session-id", "auth": "authorization", "cookies": "cookie", "resume": "last-event-id"}
        entry: dict[str, Any] = {"pid": os.getpid(), "verb": verb, "path": path, "method": method}
        entry |= {"id": message.get("id"), "tool": tool, "headers": headers}
        append(self.options.ledger, entry | {name: headers.get(header) for name, header in shown.items()})


def application(options: argparse.Namespace) -> ConnectLimiter:
    """The ASGI application, with both transports."""
    server = growing() if options.growing else calculator()
    any_host = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app: Starlette = server.streamable_http_app(
        json_response=options.json,
        stateless_http=options.stateless,
        event_store=Memory() if options.event_store else None,
        retry_interval=options.retry,
        transport_security=any_host,
    )
    app.router.routes.extend(server.sse_app(transport_security=any_host).routes)
    return ConnectLimiter(app, options)


def exit_with_parent() -> None:
    """Exit at the end of stdin."""
    while os.read(0, 4096):
        pass
    os._exit(0)


async def serve(options: argparse.Namespace) -> None:
    """Listen, print the port, and serve until SIGTERM."""
    config = uvicorn.Config(
        application(options),
        log_level="critical",
        ssl_certfile=options.certfile,
        ssl_keyfile=options.keyfile,
        timeout_keep_alive=options.keep_alive,
        timeout_graceful_shutdown=1,
    )
    taken = listening(options.port)
    print(taken.getsockname()[1], flush=True)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    await uvicorn.Server(config).serve(sockets=[taken])


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="The SDK's own server over HTTP.", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=0, help="the port (0: a free one)")
    parser.add_argument(
        "--legacy-only", action="store_true", help="refuse the modern protocol, as the SDK did before it"
    )
    parser.add_argument("--stateless", action="store_true", help="handshake protocol: no sessions")
    parser.add_argument("--growing", action="store_true", help="a tool that adds one")
    parser.add_argument("--json", action="store_true", help="answer by JSON, not on event streams")
    parser.add_argument("--event-store", action="store_true", help="give events ids, and serve Last-Event-ID")
    parser.add_argument("--retry", type=int, metavar="MS", help="how soon to come back to a stream")
    parser.add_argument("--certfile", metavar="FILE", help="speak TLS, with this certificate")
    parser.add_argument("--keyfile", metavar="FILE", help="and this key")
    parser.add_argument("--token", help="401 to who does not bear it")
    parser.add_argument("--keep-alive", type=int, default=5, metavar="SECONDS", help="drop idle connections after this")
    parser.add_argument("--ledger", metavar="FILE", help="a line for each request")
    return parser.parse_args()


if __name__ == "__main__":
    anyio.run(serve, parse_options())
