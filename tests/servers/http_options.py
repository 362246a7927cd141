"""The command line of `http_raw.py`: the options of `misbehaving.py` that are not about pipes, and HTTP options."""

from __future__ import annotations

import json
import sys

import answering
from misbehaving import BEHAVIOURS, attribute, read_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

    from misbehaving import Options

NOT_HERE: Final = (
    *("helper", "grandchild_holds_pipes", "escaped", "close_stdin", "garbage", "flood_stderr", "flood_stdout"),
    *("refuse_notifications",),
    *("stubborn", "slow_exit", "exit_code"),
)
"""Options of `misbehaving.py` that are about pipes and processes."""

for stdio_only in (
    "garbage",
    "spawn_helper",
    "close_stdout",
    "close_stdin",
    "go_deaf",
    "answer_and_die",
    "error_and_die",
    "raw",
):
    del answering.misbehaving.TOOLS[stdio_only]

HTTP_BEHAVIOURS: Final[Mapping[str, Mapping[str, Any]]] = {
    "--port": {"type": int, "default": 0, "help": "the port (0: a free one)"},
    "--refuse": {"action": "store_true", "help": "hold the port without listening, until told to by `listen`"},
    "--certfile": {"metavar": "FILE", "help": "speak TLS, with this certificate"},
    "--keyfile": {"metavar": "FILE", "help": "and this key"},
    "--token": {"action": "append", "default": [], "metavar": "[/PATH=]TOKEN", "help": "401 to who does not bear it"},
    "--cookies": {
        "action": "store_true",
        "help": "set a cookie for the whole origin, named `path`, to the path asked for",
    },
    "--stateless": {"action": "store_true", "help": "handshake protocol: no session ids, no GET stream"},
    "--no-get": {"action": "store_true", "help": "answer 405 to a GET"},
    "--unknown-session": {
        "type": int,
        "default": 404,
        "help": "the status for unknown sessions (404, or 400 as some do)",
    },
    "--names-request": {"action": "store_true", "help": "errors about unknown sessions have the request's id"},
    "--stream": {"action": "store_true", "help": "answer on event streams always, not only where there is progress"},
    "--event-ids": {"action": "store_true", "help": "give events ids, and serve Last-Event-ID"},
    "--retry": {"type": int, "default": 20, "metavar": "MS", "help": "the retry delay, sent with the first event id"},
    "--fault": {"action": "append", "default": [], "type": json.loads, "metavar": "JSON", "help": "a rule; repeatable"},
}


def parse_options() -> Options:
    """Read the command line."""
    table = {name: how for name, how in {**BEHAVIOURS, **HTTP_BEHAVIOURS}.items() if attribute(name) not in NOT_HERE}
    options = read_options(table, sys.argv[1:])
    vars(options).update(dict.fromkeys(NOT_HERE, False))
    return options
