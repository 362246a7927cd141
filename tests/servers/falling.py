"""`answering.py` with tools that end their server on the first call and answer the second. Same options.

The annotations of the tools (MCP specification, Tools) are in their names.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib would slow the start

import answering  # noqa: F401 - its tools
from misbehaving import DEATH, TOOLS, Server, Tool, parse_options, tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from misbehaving import Call

ANNOTATIONS: Final = {
    "fall_read_only": {"readOnlyHint": True},
    "fall_idempotent": {"readOnlyHint": False, "idempotentHint": True},
    "fall_writing": {"readOnlyHint": False, "idempotentHint": False},
    "fall_destructive": {"destructiveHint": True},
}


@tool(marker="string", progress="boolean")
def fall(server: Server, call: Call) -> str:
    """Create a file and exit, or answer if the file exists already. May report a step of progress."""
    marker = str(call.arguments["marker"])
    is_first = not os.path.exists(marker)  # noqa: PTH110 - pathlib would slow the start
    if call.arguments.get("progress"):
        step = 1 if is_first else 2
        server.notify("notifications/progress", {"progressToken": call.progress_token, "progress": step})
    if is_first:
        with open(marker, "w"):  # noqa: PTH123 - likewise
            os._exit(DEATH)
    return "I stand"


for name, hints in ANNOTATIONS.items():
    TOOLS[name] = Tool(fall, waits=False, schema={"type": "object"}, output=None)
    TOOLS[name].definition["annotations"] = hints

if __name__ == "__main__":
    Server(parse_options()).run()
