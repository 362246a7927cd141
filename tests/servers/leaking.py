"""`misbehaving.py` with tools that leak an environment variable, each in another way. Same options, same command line."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import misbehaving
from misbehaving import Refusal, Server, parse_options, say, text, tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from misbehaving import Call, Json


def value(call: Call) -> str:
    """The value of the variable named in the call."""
    return os.environ.get(call.arguments.get("name", ""), "")


@tool(name="string")
def tell(_server: Server, call: Call) -> str:
    """Write the value to stderr, then answer."""
    say(f"the value is {value(call)}!")
    return "told"


@tool(name="string")
def tell_and_die(_server: Server, call: Call) -> NoReturn:
    """Write the value to stderr and exit."""
    say(f"the value is {value(call)}!")
    os._exit(misbehaving.DEATH)


@tool(name="string")
def break_protocol(_server: Server, call: Call) -> Json:
    """Answer a result that violates the protocol, with the value in the wrong place."""
    return {"content": value(call)}


@tool(output={"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}, name="string")
def break_schema(_server: Server, call: Call) -> Json:
    """Answer a result that breaks this tool's schema, with the value in the wrong place."""
    return text("a word", structuredContent={"value": value(call)})


@tool(name="string")
def refuse(_server: Server, call: Call) -> NoReturn:
    """Answer a JSON-RPC error with the value in its message."""
    raise Refusal(misbehaving.SERVER_ERROR, f"wrong token {value(call)}")


if __name__ == "__main__":
    misbehaving.Server(parse_options()).run()
