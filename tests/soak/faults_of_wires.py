"""Faults between the pool and servers behind a URL: of connections, by the proxies, and of responses, by `http_raw.py`."""

from __future__ import annotations

import random
from typing import Any, Final

import anyio

from helpers.http import fault as rule
from soak.bounds import MAX_MESSAGE_SIZE
from soak.faults import Fault, Injection, World, behind_url
from soak.fleet import Target

LONGEST_FAULT: Final = 4.0
"""How long a fault lasts at most: some calls survive it, and some do not."""
DELAY: Final = 0.7
"""Seconds before a slow connection carries anything; well below every limit."""
TRUNCATED: Final = 800
"""The most bytes of a response before it breaks off."""


def on_raw(target: Target) -> bool:
    """Whether a server behind a URL is `http_raw.py`."""
    return target.host is not None and target.host.raw


async def disturbed(target: Target, action: str, value: Any = None, *, seconds: float) -> None:
    """Do something to the connections of a process, and undo it after some time."""
    await target.behind.disturb(action, value)
    await anyio.sleep(seconds)
    await target.behind.disturb("restore")


def disturbing(action: str, longest: float = 0.0) -> Injection:
    """Return a fault that does this to the connections of a process, for some time or a moment."""

    async def disturb(_world: World, target: Target, chance: random.Random) -> None:
        await disturbed(target, action, seconds=longest * chance.random())

    return disturb


async def slowed(_world: World, target: Target, chance: random.Random) -> None:
    """Make new connections wait before they carry anything."""
    await disturbed(target, "slow", DELAY * chance.random(), seconds=LONGEST_FAULT * chance.random())


async def truncated(_world: World, target: Target, chance: random.Random) -> None:
    """Make the next connection break off after some bytes."""
    await target.behind.disturb("truncate", chance.randrange(1, TRUNCATED))
    await disturbed(target, "cut", seconds=chance.random())


WAYS: Final[tuple[tuple[str, Any, bool], ...]] = (
    ("status", 500, True),
    ("status", 503, True),
    ("status", 429, False),
    ("close", None, True),
    ("reset", None, True),
    ("not_http", None, False),
    ("accepted", None, False),
    ("redirect", None, False),
    ("redirect", "/moved/mcp", False),
    ("slow", 1.0, False),
    ("slow", 3.0, False),
    ("broken_json", None, False),
    ("not_rpc", None, False),
    ("content_type", "text/plain", False),
    ("content_encoding", "gzip", False),
    ("big_body", 2 * MAX_MESSAGE_SIZE, False),
    ("half_body", "cut", False),
    ("half_body", "reset", False),
    ("half_body", "stall", False),
    ("half_stream", "cut", False),
    ("half_stream", "end", False),
    ("half_stream", "reset", False),
    ("half_stream", "cut ids", False),
    ("half_stream", "stall", False),
    ("big_event", 2 * MAX_MESSAGE_SIZE, False),
    ("endless_event", None, False),
)
"""Faults of `http_faults.py`: name, value, and whether the request may run first."""

ON: Final = ("tools/call", "tools/call", "tools/call", "POST", "GET", "handshake", "tools/list", "ping")
"""The requests that get these faults."""
RULES: Final = 3
"""How many of these faults are active at once."""
METHOD_NOT_FOUND: Final = -32601
"""The code with which a server says that it does not have a method."""
WISHES: Final = (0, 1, 10**9, "9" * 400, "-1", "soon", "")
"""Values of `retry:`."""
LONGEST_RULE: Final = 10
"""The most requests that a rule affects: a server that always fails tests less than one that fails sometimes."""


async def misbehaved(_world: World, target: Target, chance: random.Random) -> None:
    """Corrupt the responses to some kinds of requests for some time."""
    rules = [random_rule(chance) for _ in range(RULES)]
    await target.behind.process.order(faults=rules)
    if any(each["on"] == "handshake" for each in rules):
        await target.behind.process.order(drop="reset", forget=True)
    await anyio.sleep(LONGEST_FAULT * chance.random())
    await target.behind.process.order(faults=[])


def random_rule(chance: random.Random) -> dict[str, Any]:
    """Choose the requests, and the faults of their responses."""
    do, value, may_run = chance.choice(WAYS)
    after = may_run and chance.choice((True, False))
    return rule(do, value, on=chance.choice(ON), times=chance.randint(1, LONGEST_RULE), after=after)


async def forgotten(_world: World, target: Target, chance: random.Random) -> None:
    """Make it forget all sessions, and say so in one of two ways."""
    await target.behind.process.order(forget=True, options={"unknown_session": chance.choice((404, 400))})


async def streams_ended(_world: World, target: Target, chance: random.Random) -> None:
    """End the streams for its own messages."""
    await target.behind.process.order(streams=chance.choice(("end", "cut", "reset")))


async def streams_refused(_world: World, target: Target, chance: random.Random) -> None:
    """End the streams for its own messages, and refuse to open them again for some time.

    Not with 401 or 403: over SSE, that stops the retries.
    """
    status = chance.choice((404, 405, 406, 409, 500, 501, 503))
    await target.behind.process.order(faults=[rule("status", status, on="GET")], streams=chance.choice(("end", "cut")))
    await anyio.sleep(LONGEST_FAULT * chance.random())
    await target.behind.process.order(faults=[])


async def pings_unknown(_world: World, target: Target, chance: random.Random) -> None:
    """Answer each ping as a server that does not have it, and see whether its sessions stay."""
    status = chance.choice((200, 400, 404))
    await target.behind.process.order(faults=[rule("error", [status, METHOD_NOT_FOUND, "Method not found"], on="ping")])
    await anyio.sleep(LONGEST_FAULT * chance.random())
    await target.behind.process.order(faults=[])


async def endpoints_named_again(_world: World, target: Target, chance: random.Random) -> None:
    """Name the endpoint of each session over SSE again: the same, or another."""
    await target.behind.process.order(endpoint=chance.choice(("", "&again=1")))


async def told_when_to_retry(_world: World, target: Target, chance: random.Random) -> None:
    """Cut answers that can be resumed, and want that done at once, much later, or at a time that is not one."""
    rules = [rule("half_stream", "cut ids", on="tools/call", times=LONGEST_RULE), rule("reset", on="resume", times=2)]
    await target.behind.process.order(faults=rules, options={"retry": chance.choice(WISHES)})
    await anyio.sleep(LONGEST_FAULT * chance.random())
    await target.behind.process.order(faults=[], options={"retry": 20})


FAULTS: Final = (
    Fault("connections cut", 5, behind_url, disturbing("cut")),
    Fault("connections reset", 5, behind_url, disturbing("reset")),
    Fault("connections half closed", 2, behind_url, disturbing("half_close")),
    Fault("connections stalled, then resumed", 4, behind_url, disturbing("stall", LONGEST_FAULT)),
    Fault("connections refused, then accepted again", 4, behind_url, disturbing("refuse", LONGEST_FAULT)),
    Fault("connections slowed", 4, behind_url, slowed),
    Fault("connections cut in the middle of a response", 4, behind_url, truncated),
    Fault("responses corrupted", 16, on_raw, misbehaved),
    Fault("sessions forgotten", 4, on_raw, forgotten),
    Fault("streams for the server's own messages ended", 4, on_raw, streams_ended),
    Fault("streams for the server's own messages refused", 3, on_raw, streams_refused),
    Fault("pings not known", 3, on_raw, pings_unknown),
    Fault("endpoints named again", 3, on_raw, endpoints_named_again),
    Fault("answers to be resumed at odd times", 4, on_raw, told_when_to_retry),
)
