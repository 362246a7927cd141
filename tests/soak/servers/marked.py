"""Tools for `misbehaving.py` and `http_raw.py` whose calls have a ticket, which is recorded the moment the call runs.

    python -I -S by_stdio.py LEDGER [option ...]

A line of the ledger is only a ticket, so that hours of calls fit in a small file. Importing this module
removes the ledger from the command line.
"""

from __future__ import annotations

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/../../servers")  # noqa: PTH100, PTH120

import misbehaving
from misbehaving import Refusal, say, text, tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from misbehaving import Call, Json, Server

LEDGER: Final = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
REFUSED: Final = -32000
"""The most common code of real servers, which the SDK also uses for a closed connection."""

parties: dict[str, list[Call]] = {}
"""The calls of `gather` that wait for the others, by party."""


def ticket_of(call: Call) -> str:
    """Record that a call runs, and return its ticket."""
    ticket = str(call.arguments["ticket"])
    os.write(LEDGER, ticket.encode() + b"\n")
    return ticket


def report(server: Server, call: Call, step: int, steps: int) -> None:
    """Report progress, if the caller wants it."""
    if call.progress_token is not None:
        params = {"progressToken": call.progress_token, "progress": step, "total": steps}
        server.notify("notifications/progress", params)


def worked(server: Server, call: Call) -> str:
    """Take some time, in steps, and return the ticket."""
    ticket = ticket_of(call)
    steps = int(call.arguments.get("steps", 0))
    for step in range(steps):
        time.sleep(call.arguments.get("seconds", 0.0) / steps)
        report(server, call, step + 1, steps)
    if not steps:
        time.sleep(call.arguments.get("seconds", 0.0))
    return ticket


@tool(waits=True, ticket="string", seconds="number", steps="integer")
def work(server: Server, call: Call) -> str:
    """Take some time, in steps, and return the ticket."""
    return worked(server, call)


@tool(waits=True, ticket="string", seconds="number", steps="integer")
def safe(server: Server, call: Call) -> str:
    """Do the same as `work`; safe to retry."""
    return worked(server, call)


misbehaving.TOOLS["safe"].definition["annotations"] = {"readOnlyHint": True}


@tool(waits=True, ticket="string", size="integer")
def bulky(_server: Server, call: Call) -> str:
    """Return the ticket and this many characters."""
    return ticket_of(call) + " " + "x" * int(call.arguments.get("size", 0))


@tool(ticket="string")
def refuse(_server: Server, call: Call) -> NoReturn:
    """Return a JSON-RPC error that contains the ticket."""
    raise Refusal(REFUSED, f"refused {ticket_of(call)}")


@tool(ticket="string")
def mute(_server: Server, call: Call) -> None:
    """Never return."""
    ticket_of(call)


@tool(ticket="string", party="string", count="integer")
def gather(server: Server, call: Call) -> None:
    """Return the ticket as soon as this many calls of the same party have arrived."""
    ticket_of(call)
    here = parties.setdefault(str(call.arguments["party"]), [])
    here.append(call)
    if len(here) >= int(call.arguments["count"]):
        for waiting in here:
            server.answer(waiting.request, text(str(waiting.arguments["ticket"])))
        here.clear()


@tool(ticket="string", how="string")
def leave(server: Server, call: Call) -> Json | str | int | None:
    """Exit, or close a pipe, with one of the tools of `misbehaving.py`."""
    ticket_of(call)
    say("I am leaving")
    return misbehaving.TOOLS[str(call.arguments["how"])].run(server, call)


@tool(waits=True, ticket="string", bytes="integer")
def huge(server: Server, call: Call) -> None:
    """Return a message of this many bytes."""
    ticket_of(call)
    server.answer(call.request, text(misbehaving.PADDING), size=int(call.arguments["bytes"]))


SPOILT: Final = (
    lambda line: b"answer: " + line,
    lambda line: line.replace(b'"text"', b'"text\xff"', 1),
    lambda line: line.replace(b'"jsonrpc"', b'"jsonrps"', 1),
    lambda line: line.replace(b"{", b"{\x07", 1),
    lambda line: line[:-1],
)
"""What turns an answer into a line that cannot be read, but shows which request it answers."""


@tool(ticket="string", how="integer")
def spoil(server: Server, call: Call) -> None:
    """Answer by a line that cannot be read."""
    answer = {"jsonrpc": "2.0", "id": call.request["id"], "result": text(ticket_of(call))}
    server.write_bytes(SPOILT[int(call.arguments["how"]) % len(SPOILT)](json.dumps(answer).encode()), b"\n")


@tool(waits=True, ticket="string", what="string", count="integer")
def flood(server: Server, call: Call) -> str:
    """Write this many lines of one kind as fast as possible, then return the ticket."""
    ticket, what, count = ticket_of(call), str(call.arguments["what"]), int(call.arguments["count"])
    for number in range(count):
        match what:
            case "log messages":
                server.notify("notifications/message", {"level": "info", "data": f"flood {number}"})
            case "progress":
                report(server, call, number, count)
            case "standard error":
                say(f"flood {number} {'.' * 80}")
            case "garbage":
                server.write_bytes(misbehaving.GARBAGE)
            case _:
                server.write({"jsonrpc": "2.0", "id": f"asked-{ticket}-{number}", "method": "roots/list"})
    return ticket
