"""The ways in which `http_raw.py` misbehaves, by name, and the rules that say when.

A rule is a JSON object: `{"do": "status", "value": 503, "on": "tools/call", "first": 1, "times": 1}`. All but `do` may be left
out. `on` is `*` (everything), an HTTP verb, `resume` (a GET with Last-Event-ID), `handshake` (of either protocol), a JSON-RPC
method, or `tools/call:` and the name of a tool. Of the requests that it speaks of, it applies to `times` of them (left out:
to all) from the `first` on (1), and of those to every `every`-th. With `after`, the request is run before.
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
    """An entry of the table of ways."""

    def __init__(self, function: Function, *, runs: bool) -> None:
        self.function = function
        self.runs = runs
        """Whether it runs the request itself, to spoil the answer."""


class Fault:
    """A rule, and how many requests have met it."""

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

    def speaks_of(self, exchange: Exchange) -> bool:
        """Whether a request is one that the rule is about."""
        method = exchange.method
        kinds = {"*", exchange.request.verb, method, f"{method}:{exchange.tool}"}
        if method in ("initialize", "server/discover"):
            kinds.add("handshake")
        if "last-event-id" in exchange.request.headers:
            kinds.add("resume")
        return self.on in kinds

    def strikes(self) -> bool:
        """Count a request, and tell whether it is to fail."""
        self.met += 1
        number = self.met - self.first
        return number >= 0 and number % self.every == 0 and (self.times is None or number // self.every < self.times)


WAYS: Final[dict[str, Way]] = {}


def way(*, runs: bool = False) -> Callable[[Function], Function]:
    """Enter a function into the table of ways."""

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
    """Close the connection without a word."""
    exchange.own.close()


@way()
async def reset(exchange: Exchange, _value: None) -> None:
    """Reset the connection without a word."""
    exchange.own.reset()


@way()
async def not_http(exchange: Exchange, _value: None) -> None:
    """Answer something that is not HTTP, and close."""
    await exchange.own.send(b"SSH-2.0-OpenSSH_9.6\r\n")
    exchange.own.close()


@way()
async def status(exchange: Exchange, value: int) -> None:
    """Answer a status with an HTML page, as a gateway does."""
    wanted = [("WWW-Authenticate", "Bearer")] if value == 401 else []
    await exchange.own.respond(value, PAGE, "text/html; charset=utf-8", wanted)


@way()
async def error(exchange: Exchange, value: int | list[Any]) -> None:
    """Answer a JSON-RPC error under a status, or under [status, code, message]; with a fourth value, that is its id."""
    status, code, words, *ids = value if isinstance(value, list) else (value, -32000, "the server refuses")
    (request_id,) = ids or [(exchange.message or {}).get("id")]
    answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": words}}
    await exchange.own.respond(status, json.dumps(answer).encode())


@way()
async def redirect(exchange: Exchange, value: str | list[Any] | None) -> None:
    """Redirect by 307, or by the status of [status, location], to a location: left out, one that does not exist."""
    status, location = value if isinstance(value, list) else (307, value or NOWHERE)
    await exchange.own.respond(status, headers=[("Location", location)])


@way()
async def session_lost(exchange: Exchange, value: int | None) -> None:
    """Forget all sessions, and say so: by 404, or by another status from now on."""
    exchange.server.sessions.clear()
    exchange.server.options.unknown_session = value or 404
    await no_session(exchange)


async def no_session(exchange: Exchange) -> None:
    """Answer that there is no such session: 404 as the SDK does, or in the way of servers that say 400.

    Neither bears the id of the request, unless `--names-request`: so do some.
    """
    options = exchange.server.options
    said = [404, -32600, "Session not found"]
    if options.unknown_session != 404:
        said = [options.unknown_session, -32000, "Bad Request: No valid session ID provided"]
    await error(exchange, said if options.names_request else [*said, None])


@way(runs=True)
async def status_of(exchange: Exchange, value: list[Any]) -> None:
    """Run the request, and answer rightly under another status, and another content type if [status, type] is given."""
    status, kind = [*value, "application/json"][:2]
    await exchange.own.respond(status, await exchange.answer(), kind, exchange.headers)


@way(runs=True)
async def late_status(exchange: Exchange, value: int) -> None:
    """Over the old transport: answer on the stream, and a while later refuse the post."""
    data = await exchange.answer()
    await exchange.out.event(data)
    await exchange.server.pause(0.2)
    await status(exchange, value)


@way()
async def says(exchange: Exchange, value: list[Any]) -> None:
    """Answer [status, content type, body, length], with the id of the request for `@ID`; the rest of the length never comes."""
    status, kind, body, *length = value
    data = body.replace("@ID", json.dumps((exchange.message or {}).get("id"))).encode()
    await exchange.own.respond(status, data, kind, exchange.headers, length=length[0] if length else None)
    if length:
        exchange.own.close()


@way()
async def accepted(exchange: Exchange, _value: None) -> None:
    """Answer 202 to a request."""
    await exchange.own.respond(202)


# With an answer that is spoilt


@way(runs=True)
async def slow(exchange: Exchange, value: float) -> None:
    """Behave, so many seconds late."""
    await exchange.server.pause(value)
    await exchange.respond()


@way(runs=True)
async def broken_json(exchange: Exchange, _value: None) -> None:
    """Answer half of the JSON, as if it were all; on an event stream, as an event."""
    data = await exchange.answer()
    await spoilt(exchange, data[: len(data) // 2])


@way(runs=True)
async def not_rpc(exchange: Exchange, _value: None) -> None:
    """Answer JSON that is not JSON-RPC."""
    await exchange.answer()
    await spoilt(exchange, b'{"message": "It works!"}')


async def spoilt(exchange: Exchange, data: bytes) -> None:
    """Answer this data instead of a message."""
    if not exchange.streams:
        await exchange.own.respond(200, data, headers=exchange.headers)
        return
    await exchange.open()
    exchange.stored.append((data, True))
    await exchange.go_on(1)


@way(runs=True)
async def content_type(exchange: Exchange, value: str | None) -> None:
    """Answer rightly, under another content type (`text/plain`)."""
    await exchange.own.respond(200, await exchange.answer(), value or "text/plain", exchange.headers)


@way(runs=True)
async def content_encoding(exchange: Exchange, value: str | None) -> None:
    """Answer rightly, and say that it is compressed (`gzip`), which it is not."""
    data = await exchange.answer()
    await exchange.own.respond(200, data, headers=[("Content-Encoding", value or "gzip"), *exchange.headers])


@way(runs=True)
async def big_body(exchange: Exchange, value: int) -> None:
    """Answer rightly, with a body of so many bytes."""
    data = await exchange.answer()
    await exchange.own.respond(200, data.rjust(value), headers=exchange.headers)


@way(runs=True)
async def half_body(exchange: Exchange, value: str | None) -> None:
    """Answer half of the body, then `cut` the connection (if nothing is said), `reset` it, or `stall` for ever."""
    data = await exchange.answer()
    await exchange.own.respond(200, data[: len(data) // 2], headers=exchange.headers, length=len(data))
    await (silent(exchange, None) if value == "stall" else exchange.own.end_as(value or "cut"))


@way(runs=True)
async def endless_body(exchange: Exchange, _value: None) -> None:
    """Begin a body of JSON, and never end it."""
    await exchange.answer()
    await exchange.own.open_chunked("application/json", exchange.headers)
    await flood(exchange, b'{"jsonrpc": "2.0", "result": "')


# On an event stream


@way(runs=True)
async def half_stream(exchange: Exchange, value: str | None) -> None:
    """Open the event stream, run the request, and `cut` the stream without an answer (if nothing is said).

    Or `end` it as it should be ended, `reset` it, or `stall` for ever. With ids (as in `cut ids`), the stream has begun with
    an event that bears an id, by which the client can come back for the answer.
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
    """Answer rightly, by an event of so many bytes."""
    data = await exchange.answer()
    exchange.streams = True
    await spoilt(exchange, data.rjust(value))


@way(runs=True)
async def endless_event(exchange: Exchange, _value: None) -> None:
    """Begin an event, and never end its line."""
    await exchange.open()
    exchange.run()
    await flood(exchange, b"event: message\ndata: ")


async def flood(exchange: Exchange, beginning: bytes) -> None:
    """Send for ever."""
    await exchange.out.chunk(beginning)
    while True:
        await exchange.out.chunk(b"x" * CHUNK)
