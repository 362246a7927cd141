"""An MCP server over HTTP that does whatever a test needs: streamable HTTP of both protocols, and the old SSE transport.

    python -I -S http_raw.py [option ...]

It has the tools of `answering.py` and most options of `misbehaving.py`; `--help` lists all. The ways to misbehave over HTTP,
and the rules for when, are in `http_faults.py`: `--fault '{"do": "status", "value": 503, "on": "tools/call"}'`.

Any path that ends in /mcp is a streamable endpoint; one that ends in /sse is the old transport (its POSTs go to /messages
beside it). The first line on stdout is the port. Each line on stdin is a JSON object of commands, answered by a line with
the state (see `control`); POST /control accepts the same. At the end of stdin the server exits.
"""

from __future__ import annotations

import sys

if "--certfile" not in sys.argv:
    sys.modules["ssl"] = None  # asyncio would import it, for a seventh of the start-up, and does without

import asyncio
import json
import os
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import misbehaving
from http_exchange import Exchange, Session
from http_faults import Fault, error, no_session, status
from http_options import parse_options
from http_wire import Connection, Gone, Request, Server
from misbehaving import MODERN_VERSION, append, is_modern, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from misbehaving import Call, Json, Options, Tool


class RawServer(misbehaving.Server, Server):
    """The server: requests go through `misbehaving.Server`, and each answer goes back to its exchange."""

    def __init__(self, options: Options) -> None:
        tls = None
        if options.certfile:
            import ssl

            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(options.certfile, options.keyfile)
        misbehaving.Server.__init__(self, options)
        Server.__init__(self, tls)
        self.ledger, options.ledger = options.ledger, None  # its lines have more fields here
        self.sessions: dict[str, Session] = {}
        self.exchanges: dict[int, Exchange] = {}
        self.resumable: dict[str, Exchange] = {}
        self.faults = [Fault(**rule) for rule in options.fault]
        self.keys = 0
        self.current = threading.local()

    def next_key(self) -> int:
        """A number that is not in use: all clients number their requests in the same way."""
        self.keys += 1
        return self.keys

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    # One HTTP request

    async def handle(self, connection: Connection, request: Request) -> None:
        """Record a request, and respond to it."""
        exchange = Exchange(self, connection, request, None)
        try:
            if request.path == "/control":
                await connection.respond(200, json.dumps(await self.control(json.loads(request.body))).encode())
                return
            if request.verb == "POST":
                exchange.message = json.loads(request.body)
            append(self.ledger, {"pid": os.getpid(), **exchange.entry})
            if self.options.cookies:
                connection.more = [("Set-Cookie", f"path={request.path}; Path=/")]
            await self.respond(exchange)
        except Gone:
            append(self.ledger, {"pid": os.getpid(), "gone": exchange.names})
            connection.close()
        except Exception:
            traceback.print_exc()
            connection.reset()

    async def respond(self, exchange: Exchange) -> None:
        """Respond as the first rule that applies, or correctly."""
        applying = [fault for fault in self.faults if fault.matches(exchange) and fault.applies()]
        if applying and not (applying[0].way.runs or applying[0].after):
            await applying[0].way.function(exchange, applying[0].value)
        elif not await self.admit(exchange):
            return
        elif applying:
            if applying[0].after:
                await exchange.answer()
            await applying[0].way.function(exchange, applying[0].value)
        elif exchange.message is not None:
            await exchange.respond()
        elif exchange.request.verb == "DELETE":
            await self.end_session(exchange)
        else:
            await self.open_stream(exchange)

    async def admit(self, exchange: Exchange) -> bool:
        """Accept a request, or reject it."""
        request = exchange.request
        for path, _, token in (rule.rpartition("=") for rule in self.options.token):
            if request.path.startswith(path) and request.headers.get("authorization") != f"Bearer {token}":
                await status(exchange, 401)
                return False
        if request.path.endswith("/sse"):
            if request.verb != "GET":
                await status(exchange, 405)
            return request.verb == "GET"
        session_id = request.headers.get("mcp-session-id")
        if request.path.endswith("/messages"):
            session_id = request.query.partition("=")[2]
            exchange.streams = True
        elif not request.path.endswith("/mcp"):
            await status(exchange, 404)
            return False
        elif self.needs_no_session(exchange):
            return True
        elif exchange.method == "initialize":
            exchange.session = self.new_session(request.path)
            return True
        exchange.session = self.sessions.get(session_id or "")
        if exchange.session is None or exchange.session.path != request.path:
            if session_id:
                await no_session(exchange)
            else:
                await error(exchange, [400, -32000, "Bad Request: No valid session ID provided"])
            return False
        if request.path.endswith("/messages"):
            assert exchange.session.stream is not None
            exchange.out = exchange.session.stream
        return True

    def needs_no_session(self, exchange: Exchange) -> bool:
        """Whether a request is of the modern protocol, or this server has no sessions at all."""
        if self.options.modern:
            version = exchange.request.headers.get("mcp-protocol-version")
            exchange.modern = is_modern(exchange.message or {}) or version == MODERN_VERSION
        odd_discover = self.options.ignore_discover or self.options.die_at_discover
        discovered = exchange.method == "server/discover" and odd_discover
        return exchange.modern or self.options.stateless or discovered

    def new_session(self, path: str, stream: Connection | None = None) -> Session:
        """Open a session."""
        session = Session(os.urandom(8).hex(), path, stream)
        self.sessions[session.session_id] = session
        return session

    async def open_stream(self, exchange: Exchange) -> None:
        """Respond to a GET: for the old transport, for a Last-Event-ID, or for the stream of a session."""
        own, session = exchange.own, exchange.session
        key, _, index = exchange.request.headers.get("last-event-id", "").rpartition("-")
        if exchange.request.path.endswith("/sse"):
            session = self.new_session(exchange.request.path.removesuffix("/sse") + "/messages", own)
            await exchange.open()
            await own.event(f"{session.path}?session_id={session.session_id}".encode(), "endpoint")
        elif key in self.resumable:
            await self.resumable[key].resume(own, int(index))
            return
        elif session is None or self.options.no_get:
            await own.respond(405)
            return
        elif session.stream is not None and not session.stream.gone.is_set():
            await own.respond(409)
            return
        else:
            session.stream = own
            await exchange.open()
        await own.gone.wait()
        if exchange.request.path.endswith("/sse"):
            self.sessions.pop(session.session_id, None)
        own.close()

    def name_endpoints(self, more: str) -> None:
        """Name the endpoint of each session over SSE again, with something appended to it."""
        for session in self.sessions.values():
            if session.stream is not None and session.path.endswith("/messages") and not session.stream.gone.is_set():
                endpoint = f"{session.path}?session_id={session.session_id}{more}"
                self.start(session.stream.event(endpoint.encode(), "endpoint"))

    async def end_session(self, exchange: Exchange) -> None:
        """Respond to a DELETE."""
        if exchange.session is None:
            await exchange.own.respond(405)
            return
        self.sessions.pop(exchange.session.session_id, None)
        if exchange.session.stream is not None:
            exchange.session.stream.close()
        await exchange.own.respond(200)

    # Between the exchanges and `misbehaving.Server`

    def run_message(self, exchange: Exchange) -> None:
        """Run a message. Its answers are matched by its id, which is made unique here."""
        message = dict(exchange.message or {})
        if exchange.has_answer:
            self.exchanges[exchange.key] = exchange
            message["id"] = exchange.key
        self.receive(json.dumps(message).encode())

    def finish(self, call: Call, tool: Tool) -> None:
        """Record that a tool runs, and run it."""
        exchange = self.exchanges.get(call.request.get("id"))
        self.current.exchange = exchange
        if exchange is not None:
            append(self.ledger, {"pid": os.getpid(), "ran": call.name, "id": (exchange.message or {}).get("id")})
        super().finish(call, tool)

    def write(self, message: Json, *, size: int | None = None) -> bool:
        """Deliver a message to its exchange; from any thread."""
        current: Exchange | None = getattr(self.current, "exchange", None)
        self.loop.call_soon_threadsafe(self.route, message, size, current)
        return True

    def route(self, message: Json, size: int | None, current: Exchange | None) -> None:
        """Deliver a message to its exchange; without one, to all streams."""
        if "id" in message and "method" not in message:
            exchange = self.exchanges.pop(message["id"])
            exchange.messages.put_nowait(({**message, "id": (exchange.message or {})["id"]}, size))
            return
        token = (message.get("params") or {}).get("progressToken")
        concerned = [exchange for exchange in self.exchanges.values() if token is not None and exchange.token == token]
        if concerned:
            (current if current in concerned else concerned[-1]).messages.put_nowait((message, size))
        else:
            for session in self.sessions.values():
                if session.stream is not None and not session.stream.gone.is_set():
                    self.start(session.stream.event(json.dumps(message).encode()))

    # Lifetime

    async def control(self, orders: Json) -> Json:
        """Carry out commands, and return the state.

        `faults`: a list of rules that replaces the current ones; `add`: more rules, before them; `forget`: true, all sessions;
        `streams`: `end`, `cut` or `reset` the streams of all sessions; `drop`: `cut` or `reset` all connections; `send`: a
        message for the streams of all sessions; `endpoint`: something to append to the endpoint of each session over SSE,
        which is named again; `listen`: false or true, for new connections on the port; `options`: values for options.
        """
        for name, value in orders.get("options", {}).items():
            setattr(self.options, name, value)
        if "faults" in orders:
            self.faults = []
        self.faults[:0] = [Fault(**rule) for rule in [*orders.get("faults", []), *orders.get("add", [])]]
        open_streams = [session.stream for session in self.sessions.values() if session.stream]
        for stream in open_streams if "streams" in orders else []:
            if not stream.gone.is_set():
                await stream.end_as(orders["streams"])
                stream.gone.set()
        for connection in list(self.connections) if "drop" in orders else []:
            await connection.end_as(orders["drop"])
        if orders.get("forget"):
            self.sessions.clear()
        if "send" in orders:
            self.route(orders["send"], None, None)
        if "endpoint" in orders:
            self.name_endpoints(orders["endpoint"])
        if "listen" in orders:
            await self.listen(self.port, listen=orders["listen"])
        return {
            "port": self.port,
            "accepted": self.accepted,
            "connections": len(self.connections),
            "sessions": list(self.sessions),
            "streams": sum(not stream.gone.is_set() for stream in open_streams),
            "pending": [exchange.method for exchange in self.exchanges.values()],
            "met": [fault.met for fault in self.faults],
        }

    async def serve(self) -> None:
        """Listen, print the port, and serve for ever."""
        self.loop = asyncio.get_running_loop()
        self.note_process(os.getpid(), "server")
        if self.options.leak_env:
            say(self.secret())
        if self.options.say:
            say(self.options.say)
        if self.options.exit_at_start is not None:
            os._exit(self.options.exit_at_start)
        time.sleep(self.options.slow_start)  # noqa: ASYNC251 - nobody else is there yet
        await self.listen(self.options.port, listen=not self.options.refuse)
        misbehaving.write_all(1, b"%d\n" % self.port)
        threading.Thread(target=self.take_orders, daemon=True).start()
        await self.loop.create_future()

    def take_orders(self) -> None:
        """Carry out the commands on stdin, and exit at its end."""
        for line in sys.stdin.buffer:
            state = asyncio.run_coroutine_threadsafe(self.control(json.loads(line)), self.loop).result()
            misbehaving.write_all(1, json.dumps(state).encode() + b"\n")
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(RawServer(parse_options()).serve())
