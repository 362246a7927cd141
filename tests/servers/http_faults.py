"""The ways in which `http_raw.py` misbehaves, by name, and the rules for when it does.

A rule is a JSON object: `{"do": "status", "value": 503, "on": "tools/call", "first": 1, "times": 1}`. All but `do` are
optional. `on` is `*` (everything), an HTTP method, `resume` (a GET with Last-Event-ID), `handshake` (of either protocol), a
JSON-RPC method, or `tools/call:` and the name of a tool. A rule applies to `times` of the requests that match `on` (default:
all), starting from number `first` (1), and of those to every `every`-th. With `after`, the request is run before.
"""

from __future__ import annotations

import json

from http_wire import CHUNK, Gone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any, Final

    from http_exchange import Exchange

    Function = Callable[["Exchange", Any], Awaitable[None]]

PAGE: Final = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body><h1>Come back later</h1></body></html>"
NOWHERE: Final = "http://elsewhere.invalid/mcp"


class Way:
    """One way to misbehave."""

    def __init__(self, function: Function, *, runs: bool) -> None:
        self.function = function
        self.runs = runs
        """Whether it runs the request itself, to corrupt the answer."""


class Fault:
    """A rule, and how many requests have matched it."""

    def __init__(
        self,
        do: str,
        value: Any = None,
        on: str = "*",
        first: int = 1,
        times: int | None = None,
        every: int = 1,
        after: bool = False,
    ) -> None:
        self.do = do
        self.value = value
        self.on = on
        self.first = first
        self.times = times
        self.every = every
        self.after = after
        self.met = 0
        self.way = WAYS[do]

    def matches(self, exchange: Exchange) -> bool:
        """Whether a request matches the rule."""
        method = exchange.method
        kinds = {"*", exchange.request.verb, method, f"{method}:{exchange.tool}"}
        if method in ("initialize", "server/discover"):
            kinds.add("handshake")
        if "last-event-id" in exchange.request.headers:
            kinds.add("resume")
        return self.on in kinds

    def applies(self) -> bool:
        """Count a matching request, and return whether the rule applies to it."""
        self.met += 1
        number = self.met - self.first
        return number >= 0 and number % self.every == 0 and (self.times is None or number // self.every < self.times)


WAYS: Final[dict[str, Way]] = {}


def way(*, runs: bool = False) -> Callable[[Function], Function]:
    """Register a way to misbehave."""

    def enter(function: Function) -> Function:
        WAYS[function.__name__] = Way(function, runs=runs)
        return function

    return enter


# Instead of an answer


@way()
async def silent(exchange: Exchange, _value: None) -> None:
    """Read the request, and answer nothing for ever."""
    await exchange.own.gone.wait()
    raise Gone


@way()
async def close(exchange: Exchange, _value: None) -> None:
    """Close the connection without a response."""
    exchange.own.close()


@way()
async def reset(exchange: Exchange, _value: None) -> None:
    """Reset the connection without a response."""
    exchange.own.reset()


@way()
async def not_http(exchange: Exchange, _value: None) -> None:
    """Answer something that is not HTTP, and close."""
    await exchange.own.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    exchange.own.close()


@way()
async def status(exchange: Exchange, value: int | list[Any]) -> None:
    """Answer with a status and an HTML page, as a gateway does. [status, text] adds a `Retry-After`."""
    code, *later = value if isinstance(value, list) else [value]
    wanted = [("WWW-Authenticate", "Bearer")] if code == 401 else [("Retry-After", text) for text in later]
    await exchange.own.respond(code, PAGE, "text/html; charset=utf-8", wanted)


@way()
async def error(exchange: Exchange, value: int | list[Any]) -> None:
    """Answer a JSON-RPC error with a status, or with [status, code, message, id]; the id is optional."""
    status, code, words, *ids = value if isinstance(value, list) else (value, -32000, "the server refuses")
    (request_id,) = ids or [(exchange.message or {}).get("id")]
    answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": words}}
    await exchange.own.respond(status, json.dumps(answer).encode())


@way()
async def redirect(exchange: Exchange, value: str | list[Any] | None) -> None:
    """Redirect with 307, or as in [status, location]. Without a location, redirect to one that does not exist."""
    status, location = value if isinstance(value, list) else (307, value or NOWHERE)
    await exchange.own.respond(status, headers=[("Location", location)])


@way()
async def session_lost(exchange: Exchange, value: int | None) -> None:
    """Forget all sessions, and answer 404, or another status from now on."""
    exchange.server.sessions.clear()
    exchange.server.options.unknown_session = value or 404
    await no_session(exchange)


async def no_session(exchange: Exchange) -> None:
    """Answer that there is no such session: with 404 like the SDK, or like servers that answer 400.

    Neither has the id of the request, except with `--names-request`, like some servers.
    """
    options = exchange.server.options
    said = [404, -32600, "Session not found"]
    if options.unknown_session != 404:
        said = [options.unknown_session, -32000, "Bad Request: No valid session ID provided"]
    await error(exchange, said if options.names_request else [*said, None])


@way(runs=True)
async def status_of(exchange: Exchange, value: list[Any]) -> None:
    """Run the request, and answer correctly, but with another status and, for [status, type], another content type."""
    status, kind = [*value, "application/json"][:2]
    await exchange.own.respond(status, await exchange.answer(), kind, exchange.headers)


@way(runs=True)
async def late_status(exchange: Exchange, value: int) -> None:
    """Over the old transport: answer on the stream, and reject the POST a while later."""
    data = await exchange.answer()
    await exchange.out.event(data)
    await exchange.server.pause(0.2)
    await status(exchange, value)


@way()
async def says(exchange: Exchange, value: list[Any]) -> None:
    """Answer as in [status, content type, body, length], with the id of the request for `@ID`; missing bytes never arrive."""
    status, kind, body, *length = value
    data = body.replace("@ID", json.dumps((exchange.message or {}).get("id"))).encode()
    await exchange.own.respond(status, data, kind, exchange.headers, length=length[0] if length else None)
    if length:
        exchange.own.close()


@way()
async def accepted(exchange: Exchange, _value: None) -> None:
    """Answer 202 to a request."""
    await exchange.own.respond(202)


# With a corrupted answer


@way(runs=True)
async def slow(exchange: Exchange, value: float) -> None:
    """Behave, after a number of seconds."""
    await exchange.server.pause(value)
    await exchange.respond()


@way(runs=True)
async def broken_json(exchange: Exchange, _value: None) -> None:
    """Answer half of the JSON as if it were complete; on an event stream, as an event."""
    data = await exchange.answer()
    await spoilt(exchange, data[: len(data) // 2])


@way(runs=True)
async def not_rpc(exchange: Exchange, _value: None) -> None:
    """Answer JSON that is not JSON-RPC."""
    await exchange.answer()
    await spoilt(exchange, b'{"message": "It works!"}')


async def spoilt(exchange: Exchange, data: bytes) -> None:
    """Answer the given data instead of a message."""
    if not exchange.streams:
        await exchange.own.respond(200, data, headers=exchange.headers)
        return
    await exchange.open()
    exchange.stored.append((data, True))
    await exchange.go_on(1)


@way(runs=True)
async def instead(exchange: Exchange, value: str) -> None:
    """Answer these bytes, given as hex, with the id of the request for `@ID`; on an event stream, as an event."""
    request_id = json.dumps((exchange.message or {}).get("id")).encode()
    await spoilt(exchange, bytes.fromhex(value).replace(b"@ID", request_id))


@way(runs=True)
async def content_type(exchange: Exchange, value: str | None) -> None:
    """Answer correctly, with another content type (`text/plain`)."""
    await exchange.own.respond(200, await exchange.answer(), value or "text/plain", exchange.headers)


@way(runs=True)
async def content_encoding(exchange: Exchange, value: str | None) -> None:
    """Answer correctly, and declare a compression (`gzip`) that was not applied."""
    data = await exchange.answer()
    await exchange.own.respond(200, data, headers=[("Content-Encoding", value or "gzip"), *exchange.headers])


@way(runs=True)
async def big_body(exchange: Exchange, value: int) -> None:
    """Answer correctly, with a body of the given size in bytes."""
    data = await exchange.answer()
    await exchange.own.respond(200, data.rjust(value), headers=exchange.headers)


@way(runs=True)
async def half_body(exchange: Exchange, value: str | None) -> None:
    """Answer half of the body, then `cut` the connection (default), `reset` it, or `stall` for ever."""
    data = await exchange.answer()
    await exchange.own.respond(200, data[: len(data) // 2], headers=exchange.headers, length=len(data))
    await (silent(exchange, None) if value == "stall" else exchange.own.end_as(value or "cut"))


@way(runs=True)
async def endless_body(exchange: Exchange, _value: None) -> None:
    """Start a body of JSON, and never end it."""
    await exchange.answer()
    await exchange.own.open_chunked("application/json", exchange.headers)
    await flood(exchange, b'{"jsonrpc": "2.0", "result": "')


# On an event stream


@way(runs=True)
async def half_stream(exchange: Exchange, value: str | None) -> None:
    """Open the event stream, run the request, and `cut` the stream without an answer (default).

    Or `end` it properly, `reset` it, or `stall` for ever. With ids (as in `cut ids`), the stream starts with an event that
    has an id, with which the client can resume the stream.
    """
    manner, *more = (value or "cut").split()
    exchange.ids = exchange.ids or "ids" in more
    await exchange.open()
    exchange.run()
    if manner == "stall":
        await exchange.out.gone.wait()
        raise Gone
    await exchange.out.end_as(manner)
    if exchange.out is not exchange.own:
        exchange.out.close()


@way(runs=True)
async def big_event(exchange: Exchange, value: int) -> None:
    """Answer correctly, with an event of the given size in bytes."""
    data = await exchange.answer()
    exchange.streams = True
    await spoilt(exchange, data.rjust(value))


@way(runs=True)
async def endless_event(exchange: Exchange, _value: None) -> None:
    """Start an event, and never end its line."""
    await exchange.open()
    exchange.run()
    await flood(exchange, b"event: message\ndata: ")


async def flood(exchange: Exchange, beginning: bytes) -> None:
    """Send for ever."""
    await exchange.out.chunk(beginning)
    while True:
        await exchange.out.chunk(b"x" * CHUNK)
