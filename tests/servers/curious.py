"""`answering.py` with tools that send requests and notifications to the client, in either protocol.

The tool `ask` answers with the client's answers, as a JSON list: results, and errors as `{"error": {...}}`.
"""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import answering  # noqa: F401 - its tools
import misbehaving
from misbehaving import is_modern, params_of, parse_options, text, tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from misbehaving import Call, Json

CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
QUESTIONS: Final[dict[str, Json]] = {
    "sampling/createMessage": {
        "messages": [{"role": "user", "content": {"type": "text", "text": "how?"}}],
        "maxTokens": 10,
    },
    "elicitation/create": {
        "mode": "form",
        "message": "who?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "roots/list": {},
}


class Server(misbehaving.Server):
    """A server that sends requests."""

    def __init__(self) -> None:
        super().__init__(parse_options())
        self.capabilities: Json = {}
        self.asked: dict[str, Inquiry] = {}

    def receive(self, line: bytes) -> None:
        """Handle an answer, or any other message."""
        message = json.loads(line)
        if "method" in message:
            super().receive(line)
        elif message["id"] in self.asked:
            self.asked.pop(message["id"]).take(message)

    def initialize(self, request: Json) -> None:
        """Record the client's capabilities."""
        self.capabilities = params_of(request)["capabilities"]
        super().initialize(request)


class Inquiry:
    """Requests to the client on behalf of one call."""

    def __init__(self, server: Server, call: Call) -> None:
        self.server = server
        self.call = call
        self.heard: list[Json] = []
        method, count = call.arguments["method"], call.arguments.get("count", 1)
        self.enough = call.arguments.get("enough", count)
        for number in range(count):
            request_id = f"{call.request['id']}-{number}"
            server.asked[request_id] = self
            server.write({"jsonrpc": "2.0", "id": request_id, "method": method, "params": QUESTIONS[method]})

    def take(self, message: Json) -> None:
        """Handle an answer, and answer the call when there are enough."""
        self.heard.append(message["result"] if "result" in message else {"error": message["error"]})
        if len(self.heard) == self.enough:
            self.server.answer(self.call.request, text(json.dumps(self.heard)))


@tool(method="string", count="integer", enough="integer")
def ask(server: Server, call: Call) -> Json | None:
    """Send a number of requests at once, and answer with the client's answers when there are enough."""
    if not is_modern(call.request):
        Inquiry(server, call)
        return None
    responses = params_of(call.request).get("inputResponses")
    if responses is not None:
        return text(json.dumps([responses[key] for key in sorted(responses)]))
    method = call.arguments["method"]
    questions = {
        str(number): {"method": method, "params": QUESTIONS[method]} for number in range(call.arguments.get("count", 1))
    }
    return {"resultType": "input_required", "inputRequests": questions, "requestState": "asked"}


def ask_once(method: str, name: str) -> None:
    """Register a tool that sends one request."""

    def run(server: Server, call: Call) -> Json | None:
        """Send the request, and answer with the client's answer."""
        call.arguments["method"] = method
        return ask(server, call)

    run.__name__ = name
    tool()(run)


ask_once("sampling/createMessage", "model")
ask_once("elicitation/create", "person")
ask_once("roots/list", "roots")


@tool(count="integer", size="integer")
def tell(server: Server, call: Call) -> str:
    """Send numbered log messages with some padding, then answer."""
    for number in range(call.arguments.get("count", 1)):
        data = f"{number}{' ' * call.arguments.get('size', 0)}"
        server.notify("notifications/message", {"level": "info", "data": data})
    return "told"


@tool()
def change(server: Server, _call: Call) -> str:
    """Notify that the list of tools has changed, then answer."""
    server.notify("notifications/tools/list_changed", {})
    return "changed"


@tool()
def capabilities(server: Server, call: Call) -> str:
    """Answer the client's capabilities, as JSON."""
    meta = params_of(call.request).get("_meta") or {}
    return json.dumps(meta[CAPABILITIES_KEY] if is_modern(call.request) else server.capabilities)


if __name__ == "__main__":
    Server().run()
