"""What befalls wires behind a URL: connections, by the proxies, and answers, by `http_raw.py`."""

from __future__ import annotations

import random
from typing import Any, Final

import anyio

from helpers.http import fault as rule
from soak.bounds import MAX_MESSAGE_SIZE
from soak.faults import Fault, Harm, World, behind_url
from soak.fleet import Target

LONGEST_TROUBLE: Final = 4.0
"""How long a wire stays spoilt: some calls outlast it, and some do not."""
DELAY: Final = 0.7
"""Seconds before a slow wire carries anything; well under every bound."""
TRUNCATED: Final = 800
"""Bytes of an answer at the most before it breaks off."""


def on_raw(target: Target) -> bool:
    """Whether a server behind a URL is `http_raw.py`."""
    return target.host is not None and target.host.raw


async def spoilt(target: Target, deed: str, value: Any = None, *, seconds: float) -> None:
    """Do something to the connections of a process, and mend it after some time."""
    await target.behind.spoil(deed, value)
    await anyio.sleep(seconds)
    await target.behind.spoil("mend")


def spoiling(deed: str, longest: float = 0.0) -> Harm:
    """Do what needs no further word to the connections of a process, for some time or for a moment."""

    async def spoil(_world: World, target: Target, chance: random.Random) -> None:
        await spoilt(target, deed, seconds=longest * chance.random())

    return spoil


async def slowed(_world: World, target: Target, chance: random.Random) -> None:
    """Let new connections wait before they carry anything."""
    await spoilt(target, "slow", DELAY * chance.random(), seconds=LONGEST_TROUBLE * chance.random())


async def truncated(_world: World, target: Target, chance: random.Random) -> None:
    """Let the next connection break off after some bytes."""
    await target.behind.spoil("truncate", chance.randrange(1, TRUNCATED))
    await spoilt(target, "cut", seconds=chance.random())


WAYS: Final[tuple[tuple[str, Any, bool], ...]] = (
    ("status", 500, True),
    ("status", 503, True),
    ("status", 429, False),
    ("close", None, True),
    ("reset", None, True),
    ("not_http", None, False),
    ("accepted", None, False),
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
"""Ways to misbehave of `http_faults.py`: name, value, and whether the request may be run before."""

ON: Final = ("tools/call", "tools/call", "tools/call", "POST", "GET", "handshake", "tools/list", "ping")
"""The requests that are answered so."""
RULES: Final = 3
"""How many ways of answering wrongly are in force at once."""
LONGEST_RULE: Final = 10
"""How many requests meet a rule at the most: a server that is never right shows less than one that is at times."""


async def misbehaved(_world: World, target: Target, chance: random.Random) -> None:
    """Let some kinds of requests be answered wrongly for some time."""
    rules = [random_rule(chance) for _ in range(RULES)]
    await target.behind.process.order(faults=rules)
    if any(each["on"] == "handshake" for each in rules):
        await target.behind.process.order(drop="reset", forget=True)
    await anyio.sleep(LONGEST_TROUBLE * chance.random())
    await target.behind.process.order(faults=[])


def random_rule(chance: random.Random) -> dict[str, Any]:
    """Choose which requests are answered wrongly, and how."""
    do, value, may_run = chance.choice(WAYS)
    after = may_run and chance.choice((True, False))
    return rule(do, value, on=chance.choice(ON), times=chance.randint(1, LONGEST_RULE), after=after)


async def forgotten(_world: World, target: Target, chance: random.Random) -> None:
    """Let it forget all sessions, and say so in one of two ways."""
    await target.behind.process.order(forget=True, options={"unknown_session": chance.choice((404, 400))})


async def streams_ended(_world: World, target: Target, chance: random.Random) -> None:
    """End the streams on which it speaks without being asked."""
    await target.behind.process.order(streams=chance.choice(("end", "cut", "reset")))


FAULTS: Final = (
    Fault("connections cut", 5, behind_url, spoiling("cut")),
    Fault("connections reset", 5, behind_url, spoiling("reset")),
    Fault("connections half closed", 2, behind_url, spoiling("half_close")),
    Fault("connections stalled, and flowing again", 4, behind_url, spoiling("stall", LONGEST_TROUBLE)),
    Fault("connections refused, and welcome again", 4, behind_url, spoiling("refuse", LONGEST_TROUBLE)),
    Fault("connections slowed", 4, behind_url, slowed),
    Fault("connections cut in the middle of an answer", 4, behind_url, truncated),
    Fault("answers spoilt", 16, on_raw, misbehaved),
    Fault("sessions forgotten", 4, on_raw, forgotten),
    Fault("streams of the server's own messages ended", 4, on_raw, streams_ended),
)
