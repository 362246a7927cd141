"""`misbehaving.py` with tools that control when and how they answer. Same options, same command line.

A call of `hold` is answered when `release` is called: tests decide the order of answers without a clock.
"""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import misbehaving
from misbehaving import DEATH, Refusal, Server, parse_options, text, tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from misbehaving import Call, Json

held: dict[str, Call] = {}
"""The calls that wait for their release, by key."""


@tool(key="string")
def hold(_server: Server, call: Call) -> None:
    """Answer the key when `release` is called with it."""
    held[str(call.arguments.get("key", ""))] = call


@tool(key="string")
def release(server: Server, call: Call) -> str:
    """Let the call of `hold` with this key be answered, then answer."""
    key = str(call.arguments.get("key", ""))
    server.answer(held.pop(key).request, text(key))
    return "released"


@tool(key="string", step="integer")
def advance(server: Server, call: Call) -> str:
    """Report progress for the call of `hold` with this key, then answer."""
    step = call.arguments.get("step", 1)
    token = held[str(call.arguments.get("key", ""))].progress_token
    server.notify("notifications/progress", {"progressToken": token, "progress": step, "message": f"step {step}"})
    return "advanced"


@tool()
def request(_server: Server, call: Call) -> str:
    """Answer the parameters of this call, as JSON."""
    return json.dumps(call.request["params"])


@tool()
def go_deaf(server: Server, call: Call) -> NoReturn:
    """Close stdin, answer, and run until a signal."""
    misbehaving.redirect_to_null(0)
    server.answer(call.request, text("I do not hear you"))
    misbehaving.sleep_for_ever()


@tool()
def answer_and_die(server: Server, call: Call) -> NoReturn:
    """Answer, and exit at once."""
    server.answer(call.request, text("my last answer"))
    os._exit(DEATH)


@tool(code="integer")
def error_and_die(server: Server, call: Call) -> NoReturn:
    """Answer a JSON-RPC error, and exit at once."""
    server.refuse(call.request, Refusal(call.arguments.get("code", misbehaving.SERVER_ERROR), "my last error"))
    os._exit(DEATH)


@tool(key="string", code="integer")
def error_for(server: Server, call: Call) -> str:
    """Answer the call of `hold` with this key by a JSON-RPC error, then answer."""
    code = call.arguments.get("code", misbehaving.SERVER_ERROR)
    server.refuse(held.pop(str(call.arguments.get("key", ""))).request, Refusal(code, "the held call failed"))
    return "failed"


@tool(output={"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]})
def unstructured(_server: Server, _call: Call) -> str:
    """Answer text only, although this tool's schema requires structured content."""
    return "just words"


@tool(name="string", output={"type": "object", "properties": {"value": {"type": "integer"}}})
def leak(_server: Server, call: Call) -> Json:
    """Answer the value of a variable, although this tool's schema requires a number."""
    return text("a secret", structuredContent={"value": os.environ[call.arguments["name"]]})


@tool()
def failed(_server: Server, _call: Call) -> Json:
    """Answer a result with `isError`."""
    return text("no luck", isError=True)


@tool()
def malformed_envelope(server: Server, call: Call) -> None:
    """Answer a result that is not an object."""
    server.write({"jsonrpc": "2.0", "id": call.request["id"], "result": {"content": [{"type": "hologram"}]}})


@tool(hex="string", first="string")
def raw(server: Server, call: Call) -> None:
    """Write these bytes and the end of a line, with the call's id for `@ID`; with words, after an answer of them."""
    if "first" in call.arguments:
        server.answer(call.request, text(call.arguments["first"]))
    request_id = json.dumps(call.request["id"]).encode()
    server.write_bytes(bytes.fromhex(call.arguments["hex"]).replace(b"@ID", request_id) + b"\n")


if __name__ == "__main__":
    Server(parse_options()).run()
