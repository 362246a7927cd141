"""An MCP server over stdio that does whatever a test needs: behave, crash, hang, flood, leak, refuse to exit.

    python -I -S misbehaving.py [option ...]

Without options it is a well-behaved server of the legacy protocol: it answers `server/discover` with "method not found",
and `initialize`; with `--modern` it answers both. Options may be combined; `--help` lists them all. The tools are in the
table TOOLS, the options in the table BEHAVIOURS.

It implements JSON-RPC by hand and imports little, so that it starts as fast as Python itself. It writes with `os.write`
and exits with `os._exit`: nothing is buffered, nothing runs at exit. Helper processes need POSIX.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False  # importing `typing` would take a tenth of the start-up time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final, NoReturn

    Json = dict[str, Any]
    Outcome = Json | str | int | None  # a whole result, a text, or no answer
    ToolFunction = Callable[["Server", "Call"], Outcome]

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION: Final = "2026-07-28"
PROTOCOL_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
SERVER_INFO_KEY: Final = "io.modelcontextprotocol/serverInfo"
SERVER_INFO: Final = {"name": "misbehaving", "version": "1.0"}

METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
SERVER_ERROR: Final = -32000  # what most servers use for their own errors; the SDK's "connection closed" is the same

GARBAGE: Final = b"this is not JSON {[\n"
PADDING: Final = "(padding)"  # replaced by padding, to give a message the required size
DEATH: Final = 7  # the exit code of a server that exits because of an option

BEHAVIOURS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Identity
    "--list-changed": {"action": "store_true", "help": "declare that the list of tools can change"},
    "--modern": {"action": "store_true", "help": "answer server/discover (and initialize still)"},
    "--tools": {"default": "", "metavar": "A,B,C", "help": "more tools, each an echo"},
    "--no-tools": {"action": "store_true", "help": "declare no tools capability, refuse tools/list"},
    "--pages": {"type": int, "default": 0, "metavar": "N", "help": "list in N pages, with a tool page_1 ... on each"},
    "--repeat-cursor": {"action": "store_true", "help": "tools/list gives the same nextCursor for ever"},
    # Records: JSON lines, appended, so that they cover every start
    "--ledger": {"metavar": "FILE", "help": "a line for each message: pid, method, id, tool"},
    "--pid-file": {"metavar": "FILE", "help": "a line for each process: pid, pgid, role (server, helper, grandchild)"},
    # At the start, in this order
    "--leak-env": {"metavar": "NAME", "help": "this variable's value to stderr and into --fail-initialize's message"},
    "--say": {"metavar": "WORDS", "help": "words for stderr"},
    "--helper": {"action": "store_true", "help": "start a helper in the group that ignores SIGTERM and SIGHUP"},
    "--own-group": {"action": "store_true", "help": "with it: in a process group of its own, made by setpgid"},
    "--grandchild-holds-pipes": {"action": "store_true", "help": "start a child that keeps all three pipes open"},
    "--escaped": {"action": "store_true", "help": "with it: in a session of its own, for at most 30 seconds"},
    "--exit-at-start": {"type": int, "metavar": "CODE", "help": "then exit"},
    "--slow-start": {"type": float, "default": 0.0, "metavar": "SECONDS", "help": "then wait before reading"},
    # In the handshake and the listing
    "--discover-ttl": {
        "type": int,
        "default": 0,
        "metavar": "MS",
        "help": "how long the answer to server/discover lives",
    },
    "--die-at-discover": {"action": "store_true", "help": f"exit with {DEATH} at server/discover"},
    "--ignore-discover": {"action": "store_true", "help": "never answer server/discover"},
    "--fail-initialize": {"action": "store_true", "help": "answer the handshake (of either protocol) with an error"},
    "--huge-at-start": {"type": int, "metavar": "BYTES", "help": "answer the handshake with a line of this size"},
    "--close-stdin": {"action": "store_true", "help": "close stdin after the handshake and keep running"},
    "--fail-list": {"action": "store_true", "help": "answer tools/list with an error"},
    "--die-at-list": {"action": "store_true", "help": f"exit with {DEATH} instead of answering tools/list"},
    "--die-after-list": {"action": "store_true", "help": f"exit with {DEATH} right after answering tools/list"},
    "--die-after-handshake": {
        "type": float,
        "metavar": "SECONDS",
        "help": f"exit with {DEATH} so long after the handshake and the first listing (--no-tools: the handshake)",
    },
    # Always
    "--never-answer": {"action": "store_true", "help": "read, and answer nothing"},
    "--garbage": {"action": "store_true", "help": "answer every line with something that is not JSON"},
    "--flood-stderr": {"action": "store_true", "help": "write lines to stderr for ever, and serve"},
    "--flood-stdout": {"action": "store_true", "help": "write notifications for ever after the handshake, and serve"},
    "--huge-line": {
        "type": int,
        "default": 0,
        "metavar": "BYTES",
        "help": "the line that the tool `huge` answers with",
    },
    "--refuse-notifications": {"action": "store_true", "help": "answer them with an error without an id"},
    "--no-result-type": {"action": "store_true", "help": "results of the modern protocol do not say what they are"},
    "--without-jsonrpc": {"default": "", "metavar": "METHOD", "help": "answer this method without `jsonrpc`"},
    "--list-also": {
        "action": "append",
        "default": [],
        "type": json.loads,
        "metavar": "JSON",
        "help": "list this as a tool too, whatever it is; repeatable",
    },
    # At the end
    "--stubborn": {"action": "store_true", "help": "ignore end of input, SIGTERM, SIGINT and SIGHUP"},
    "--exit-on-usr1": {"action": "store_true", "help": "exit with status 0 on SIGUSR1"},
    "--note-end": {"metavar": "FILE", "help": "a line when the input has ended"},
    "--slow-exit": {"type": float, "default": 0.0, "metavar": "SECONDS", "help": "wait after end of input, then exit"},
    "--exit-code": {"type": int, "default": 0, "metavar": "N", "help": "exit with this code at end of input"},
}


class Refusal(Exception):
    """A JSON-RPC error instead of a result."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Tool:
    """An entry of the table of tools. The function gets the server and the call."""

    def __init__(self, run: ToolFunction, *, waits: bool, schema: Json, output: Json | None) -> None:
        self.run = run
        self.waits = waits
        """Whether it runs in its own thread, so that the server keeps reading."""
        self.definition: Json = {"description": run.__doc__, "inputSchema": schema}
        if output is not None:
            self.definition["outputSchema"] = output


class Call:
    """One `tools/call`."""

    def __init__(self, request: Json) -> None:
        params = params_of(request)
        meta: Json = params.get("_meta") or {}
        self.request = request
        self.name: str = params.get("name", "")
        self.arguments: Json = params.get("arguments") or {}
        self.progress_token: str | int | None = meta.get("progressToken")


class Server:
    """One server process: reads lines, answers them, and misbehaves according to its options."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cancelled: list[object] = []
        self.calls: dict[str, int] = {}
        self.handshake_done = False
        self.stdin_closed = False
        # A writer holds `turn` only while it waits for `pipe`, so that a flood cannot starve the answers.
        self.turn = threading.Lock()
        self.pipe = threading.Lock()
        self.handlers: Mapping[str, Callable[[Json], None]] = {
            "server/discover": self.discover,
            "initialize": self.initialize,
            "notifications/initialized": self.shaken_hands,
            "notifications/cancelled": self.note_cancelled,
            "ping": self.ping,
            "tools/list": self.list_tools,
            "tools/call": self.call_tool,
        }

    # Lifetime

    def run(self) -> NoReturn:
        """Start, serve until the end of input, and exit."""
        options = self.options
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if options.exit_on_usr1:
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        if options.stubborn:
            for name in ("SIGTERM", "SIGINT", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: a killed helper disappears at once
        self.note_process(os.getpid(), "server")
        if options.leak_env:
            say(self.secret())
        if options.say:
            say(options.say)
        if options.helper:
            self.spawn_helper()
        if options.grandchild_holds_pipes:
            self.spawn_grandchild()
        if options.exit_at_start is not None:
            os._exit(options.exit_at_start)
        time.sleep(options.slow_start)
        if options.flood_stderr:
            in_background(flood_stderr)
        for line in sys.stdin.buffer:
            self.receive(line)
            if self.stdin_closed:
                redirect_to_null(0)
                sleep_for_ever()
        append(options.note_end, {"pid": os.getpid()})
        if options.stubborn:
            sleep_for_ever()
        time.sleep(options.slow_exit)
        os._exit(options.exit_code)

    def receive(self, line: bytes) -> None:
        """Record one line and handle it."""
        try:
            message = json.loads(line)
        except ValueError:
            return
        method = message.get("method")
        if method is None:
            return  # the answer to a request that this server never sends
        entry = {"pid": os.getpid(), "method": method, "id": message.get("id")}
        if method == "tools/call":
            entry["tool"] = params_of(message).get("name")
        append(self.options.ledger, entry)
        if self.options.never_answer:
            return
        if self.options.garbage:
            self.write_bytes(GARBAGE)
            return
        if is_modern(message) and method != "server/discover":
            self.shaken_hands(message)  # a client that knows the version skips the handshake
        if self.options.refuse_notifications and "id" not in message:
            self.write({"jsonrpc": "2.0", "id": None, "error": {"code": METHOD_NOT_FOUND, "message": "what is this?"}})
        try:
            if method in self.handlers:
                self.handlers[method](message)
            elif "id" in message:
                raise Refusal(METHOD_NOT_FOUND, f"no such method: {method}")
        except Refusal as refusal:
            self.refuse(message, refusal)

    def die(self, words: str) -> NoReturn:
        """Write to stderr, and exit with `DEATH`."""
        say(words)
        os._exit(DEATH)

    def secret(self) -> str:
        """The value that `--leak-env` leaks."""
        return os.environ.get(self.options.leak_env, "") if self.options.leak_env else ""

    # The handshake

    def discover(self, request: Json) -> None:
        """Answer `server/discover`, or reject it like a legacy server."""
        if self.options.die_at_discover:
            self.die("what is server/discover?")
        if self.options.ignore_discover:
            return
        if not self.options.modern:
            raise Refusal(METHOD_NOT_FOUND, "no such method: server/discover")
        ttl = self.options.discover_ttl
        self.shake(request, {"supportedVersions": [MODERN_VERSION], "ttlMs": ttl, "cacheScope": "private"})
        self.shaken_hands(request)

    def initialize(self, request: Json) -> None:
        """Answer the legacy handshake."""
        asked = params_of(request).get("protocolVersion")
        version = asked if asked in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
        self.shake(request, {"protocolVersion": version, "serverInfo": SERVER_INFO})

    def shake(self, request: Json, result: Json) -> None:
        """Answer a handshake of either protocol, unless it must fail."""
        if self.options.fail_initialize:
            raise Refusal(SERVER_ERROR, f"no handshake today {self.secret()}".strip())
        capabilities: Json = {} if self.options.no_tools else {"tools": {"listChanged": self.options.list_changed}}
        if self.options.huge_at_start:
            result["instructions"] = PADDING
        self.answer(request, {**result, "capabilities": capabilities}, size=self.options.huge_at_start)

    def shaken_hands(self, _message: Json) -> None:
        """Start what waits for the end of the handshake, once."""
        if self.handshake_done:
            return
        self.handshake_done = True
        if self.options.flood_stdout:
            in_background(self.flood_stdout)
        if self.options.no_tools:
            self.count_down()
        self.stdin_closed = self.options.close_stdin

    def count_down(self) -> None:
        """Exit after a while, if an option says so."""
        if self.options.die_after_handshake is not None:
            in_background(self.die_later)

    def die_later(self) -> NoReturn:
        """Exit when the time is up."""
        time.sleep(self.options.die_after_handshake)
        self.die("my time has come")

    def ping(self, request: Json) -> None:
        """Answer a ping, or reject it in the modern protocol, which has none."""
        if is_modern(request):
            raise Refusal(METHOD_NOT_FOUND, "no such method: ping")
        self.answer(request, {})

    def note_cancelled(self, message: Json) -> None:
        """Record which request was cancelled, without cancelling it."""
        self.cancelled.append(params_of(message).get("requestId"))

    # Tools

    def list_tools(self, request: Json) -> None:
        """Answer one page; the first has all tools of the table and those of `--tools`."""
        options = self.options
        if options.die_at_list:
            self.die("nobody lists me")
        if options.fail_list:
            raise Refusal(SERVER_ERROR, "the list is not available")
        if options.no_tools:
            raise Refusal(METHOD_NOT_FOUND, "no such method: tools/list")
        cursor: str | None = params_of(request).get("cursor")
        if cursor is None or options.repeat_cursor:
            page = 1
        elif cursor.startswith("page-") and cursor[5:].isdecimal() and int(cursor[5:]) <= options.pages:
            page = int(cursor[5:])
        else:
            raise Refusal(INVALID_PARAMS, f"no such cursor: {cursor}")
        names = [*TOOLS, *self.extra_tools()] if page == 1 else []
        if options.pages:
            names.append(f"page_{page}")
        result: Json = {"tools": [{"name": name, **TOOLS.get(name, TOOLS["echo"]).definition} for name in names]}
        result["tools"] = [*options.list_also, *result["tools"]]
        if options.repeat_cursor:
            result["nextCursor"] = "again"
        elif page < options.pages:
            result["nextCursor"] = f"page-{page + 1}"
        if is_modern(request):
            result |= {"ttlMs": 0, "cacheScope": "private"}
        self.answer(request, result)
        if "nextCursor" not in result:
            if options.die_after_list:
                self.die("I have shown you all I have")
            self.count_down()

    def call_tool(self, request: Json) -> None:
        """Run a tool, in a thread if it takes time, and answer what it returns."""
        call = Call(request)
        self.calls[call.name] = self.calls.get(call.name, 0) + 1
        if call.name in TOOLS:
            tool = TOOLS[call.name]
        elif call.name in self.extra_tools() or call.name in {f"page_{n}" for n in range(1, self.options.pages + 1)}:
            tool = TOOLS["echo"]
        else:
            raise Refusal(INVALID_PARAMS, f"no such tool: {call.name}")
        if tool.waits:
            in_background(lambda: self.finish(call, tool))
        else:
            self.finish(call, tool)

    def finish(self, call: Call, tool: Tool) -> None:
        """Answer a call: a text, a whole result, or nothing."""
        try:
            outcome = tool.run(self, call)
        except Refusal as refusal:
            self.refuse(call.request, refusal)
            return
        if outcome is not None:
            self.answer(call.request, outcome if isinstance(outcome, dict) else text(str(outcome)))

    def extra_tools(self) -> list[str]:
        """The names given with `--tools`."""
        return [name for name in self.options.tools.split(",") if name]

    # Writing

    def answer(self, request: Json, result: Json, *, size: int | None = None) -> None:
        """Send a result in the form that its protocol requires; with a size, padded to a line of that many bytes."""
        if is_modern(request):
            kind: Json = {} if self.options.no_result_type else {"resultType": "complete"}
            result = {**kind, "_meta": {SERVER_INFO_KEY: SERVER_INFO}, **result}
        envelope: Json = {} if request["method"] == self.options.without_jsonrpc else {"jsonrpc": "2.0"}
        self.write({**envelope, "id": request["id"], "result": result}, size=size)

    def refuse(self, request: Json, refusal: Refusal) -> None:
        """Send an error, unless it was a notification."""
        if "id" in request:
            error = {"code": refusal.code, "message": str(refusal)}
            self.write({"jsonrpc": "2.0", "id": request["id"], "error": error})

    def notify(self, method: str, params: Json) -> bool:
        """Send a notification; return False if nobody reads any more."""
        return self.write({"jsonrpc": "2.0", "method": method, "params": params})

    def write(self, message: Json, *, size: int | None = None) -> bool:
        """Send one message as a line."""
        line = json.dumps(message).encode()
        if not size:
            return self.write_bytes(line + b"\n")
        head, tail = line.split(PADDING.encode())
        return self.write_bytes(head, b"x" * (size - len(head) - len(tail)), tail, b"\n")

    def write_bytes(self, *parts: bytes) -> bool:
        """Send bytes without interleaving; return False if nobody reads any more."""
        with self.turn:
            self.pipe.acquire()
        try:
            return all(write_all(1, part) for part in parts)
        finally:
            self.pipe.release()

    def flood_stdout(self) -> None:
        """Send log messages until nobody reads any more."""
        number = 0
        while self.notify("notifications/message", {"level": "info", "data": f"flood {number}"}):
            number += 1

    # Helper processes: `sleep`, with SIGTERM and SIGHUP blocked from its first moment on

    def spawn_helper(self) -> int:
        """Start a process in the same group that has closed the pipes and ignores SIGTERM and SIGHUP."""
        let_go = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ]
        deaf_to = [signal.SIGTERM, signal.SIGHUP]
        own = {"setpgroup": 0} if self.options.own_group else {}
        pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ, file_actions=let_go, setsigmask=deaf_to, **own)
        self.note_process(pid, "helper")
        return pid

    def spawn_grandchild(self) -> None:
        """Start a process that holds the pipes; it may be in its own session, where no signal to the group reaches it."""
        escaped = self.options.escaped
        duration = "30" if escaped else "1000"
        pid = os.posix_spawnp("sleep", ["sleep", duration], os.environ, setsid=escaped)
        self.note_process(pid, "grandchild")

    def note_process(self, pid: int, role: str) -> None:
        """Record a process in the pid file."""
        pgid = os.getpgid(pid) if hasattr(os, "getpgid") else None
        append(self.options.pid_file, {"pid": pid, "pgid": pgid, "role": role})


def is_modern(request: Json) -> bool:
    """Whether a request has the `_meta` of the modern protocol."""
    meta: Json = params_of(request).get("_meta") or {}
    return PROTOCOL_VERSION_KEY in meta


def params_of(message: Json) -> Json:
    """The parameters of a message, which are optional."""
    params: Json | None = message.get("params")
    return params or {}


def text(content: str, **more: object) -> Json:
    """The result of a tool that answers with a text."""
    return {"content": [{"type": "text", "text": content}], **more}


def say(words: str) -> None:
    """Write a line to stderr."""
    write_all(2, words.encode() + b"\n")


def flood_stderr() -> None:
    """Write lines to stderr until nobody reads any more."""
    number = 0
    while write_all(2, b"flood %d %s\n" % (number, b"." * 80)):
        number += 1


def write_all(descriptor: int, data: bytes) -> bool:
    """Write everything; return False if nobody reads any more."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except OSError:
            return False
    return True


def append(path: str | None, entry: Json) -> None:
    """Append one JSON line to a file that many processes may write to."""
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, json.dumps(entry).encode() + b"\n")
        os.close(descriptor)


def redirect_to_null(descriptor: int) -> None:
    """Close this end of a pipe, without freeing its number for the next open file."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def in_background(function: Callable[[], object]) -> None:
    """Run a function in a thread that ends with the process."""
    threading.Thread(target=function, daemon=True).start()


def sleep_for_ever() -> NoReturn:
    """Run until a signal ends the process."""
    while True:
        time.sleep(1000)


TOOLS: Final[dict[str, Tool]] = {}


def tool(
    *, waits: bool = False, output: Json | None = None, **arguments: str
) -> Callable[[ToolFunction], ToolFunction]:
    """Register a tool, with the JSON types of its arguments (all of them optional)."""
    schema = {"type": "object", "properties": {name: {"type": kind} for name, kind in arguments.items()}}

    def enter(run: ToolFunction) -> ToolFunction:
        TOOLS[run.__name__] = Tool(run, waits=waits, schema=schema, output=output)
        return run

    return enter


# Tools that behave


@tool(text="string")
def echo(_server: Server, call: Call) -> str:
    """Answer the text."""
    return str(call.arguments.get("text", ""))


@tool()
def pid(_server: Server, _call: Call) -> int:
    """Answer the process id."""
    return os.getpid()


@tool(name="string")
def environment(_server: Server, call: Call) -> Outcome:
    """Answer the value of a variable (an error result if it is not set), or without a name all of them as JSON."""
    name = call.arguments.get("name")
    if name is None:
        return json.dumps(dict(os.environ))
    return os.environ[name] if name in os.environ else text(f"{name} is not set", isError=True)


@tool()
def directory(_server: Server, _call: Call) -> str:
    """Answer the working directory."""
    return os.getcwd()  # noqa: PTH109 - pathlib would slow the start


@tool(waits=True, seconds="number")
def sleep(_server: Server, call: Call) -> str:
    """Answer after the given number of seconds, cancelled or not."""
    seconds = call.arguments.get("seconds", 0.1)
    time.sleep(seconds)
    return f"slept {seconds} s"


@tool(waits=True, steps="integer", interval="number")
def progress(server: Server, call: Call) -> str:
    """Report progress step by step (before each, a pause of the interval in seconds), then answer."""
    steps = call.arguments.get("steps", 3)
    for step in range(1, steps + 1):
        time.sleep(call.arguments.get("interval", 0.0))
        if call.progress_token is not None:
            params = {"progressToken": call.progress_token, "progress": step, "total": steps, "message": f"step {step}"}
            server.notify("notifications/progress", params)
    return f"{steps} steps done"


@tool()
def cancelled(server: Server, _call: Call) -> str:
    """Answer the ids of the requests that were cancelled, as JSON."""
    return json.dumps(server.cancelled)


@tool()
def calls(server: Server, _call: Call) -> str:
    """Answer how many calls of each tool have arrived in this process, as JSON."""
    return json.dumps(server.calls)


@tool(text="string")
def stderr(_server: Server, call: Call) -> str:
    """Write the text to stderr, then answer."""
    say(call.arguments.get("text", ""))
    return "said"


@tool(waits=True, n="integer")
def big(_server: Server, call: Call) -> str:
    """Answer a text of n characters."""
    return "x" * int(call.arguments.get("n", 0))


# Tools that misbehave


@tool(code="integer", say="string")
def crash(_server: Server, call: Call) -> NoReturn:
    """Exit in the middle of the call, with a code (3), after writing to stderr if there is a text."""
    if "say" in call.arguments:
        say(call.arguments["say"])
    os._exit(call.arguments.get("code", 3))


@tool(signal="integer")
def kill(_server: Server, call: Call) -> None:
    """Be killed by a signal (SIGKILL) in the middle of the call."""
    os.kill(os.getpid(), call.arguments.get("signal", 9))


@tool()
def silent(_server: Server, _call: Call) -> None:
    """Never answer."""


@tool(code="integer", message="string")
def error(_server: Server, call: Call) -> NoReturn:
    """Answer a JSON-RPC error."""
    raise Refusal(call.arguments.get("code", SERVER_ERROR), call.arguments.get("message", "the tool failed"))


@tool()
def bad_result(_server: Server, _call: Call) -> Json:
    """Answer a result that violates the protocol."""
    return {"content": 42}


@tool(output={"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]})
def structured(_server: Server, _call: Call) -> Json:
    """Answer a result that breaks this tool's schema."""
    return text("a word", structuredContent={"value": "a word"})


@tool(lines="integer")
def garbage(server: Server, call: Call) -> str:
    """Write lines that are not JSON (3) to stdout, then answer."""
    server.write_bytes(GARBAGE * call.arguments.get("lines", 3))
    return "sorry"


@tool(waits=True, bytes="integer")
def huge(server: Server, call: Call) -> None:
    """Answer with a line of the given size in bytes without its end (default: `--huge-line`)."""
    size = call.arguments.get("bytes", server.options.huge_line) or 1000
    server.answer(call.request, text(PADDING), size=size)


@tool()
def spawn_helper(server: Server, _call: Call) -> int:
    """Start a helper in the same group that ignores SIGTERM and SIGHUP; answer its process id."""
    return server.spawn_helper()


@tool()
def close_stdout(_server: Server, _call: Call) -> None:
    """Close stdout and run until the end of input; this call and all later ones get no answer."""
    redirect_to_null(1)


@tool()
def close_stdin(server: Server, _call: Call) -> str:
    """Answer, close stdin and run until a signal."""
    server.stdin_closed = True
    return "I shall not hear you any more"


class Options:
    """The values of all options, by their names with underscores."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def read_options(table: Mapping[str, Mapping[str, Any]], arguments: list[str]) -> Options:
    """Read a command line as `argparse` would; to import it and to enter the options takes a quarter of the start-up."""
    options = Options()
    values = vars(options)
    for name, how in table.items():
        values[attribute(name)] = how.get("default", False if how.get("action") == "store_true" else None)
    words = iter(arguments)
    for name in words:
        if name not in table:
            show_options(table)
            sys.exit(name != "--help" and f"no such option: {name}")
        how = table[name]
        if how.get("action") == "store_true":
            values[attribute(name)] = True
        elif how.get("action") == "append":
            values[attribute(name)] = [*values[attribute(name)], how.get("type", str)(next(words))]
        else:
            values[attribute(name)] = how.get("type", str)(next(words))
    return options


def attribute(name: str) -> str:
    """The attribute that has the value of an option."""
    return name[2:].replace("-", "_")


def show_options(table: Mapping[str, Mapping[str, Any]]) -> None:
    """Write all options to stderr."""
    for name, how in table.items():
        say(f"  {name} {how.get('metavar', '')}".ljust(36) + how["help"])


def parse_options() -> Options:
    """Read the command line."""
    return read_options(BEHAVIOURS, sys.argv[1:])


if __name__ == "__main__":
    Server(parse_options()).run()
