"""A program with guarded servers, which a test then kills. Run as `guardian_host.py OPTIONS`, OPTIONS being JSON.

It prints what it started as one line of JSON. Then it reads commands, one per line, and prints a line when each is done.
The servers are shells in their own sessions, which never read their standard input.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, Popen

PACKAGES = ("mcp_pool", "mcp_pool.transports", "mcp_pool.transports.stdio")
FOUND = importlib.util.find_spec("mcp_pool")  # imports nothing
assert FOUND is not None
(LOCATION,) = FOUND.submodule_search_locations or ()

for name in PACKAGES:  # without running their `__init__`, which would import the SDK: a second per test
    package = types.ModuleType(name)
    package.__path__ = [str(Path(LOCATION, *name.split(".")[1:]))]
    sys.modules[name] = package
guardian_module = importlib.import_module(f"{PACKAGES[-1]}.guardian")
fork_cover = importlib.import_module(f"{PACKAGES[-1]}.fork_cover")

SLEEP = "sleep 1000"
GROUPED = f"""exec {sys.executable} -I -S -c '
import os, time
parent = os.getppid()
if os.fork():
    while os.getppid() == parent or %s:
        time.sleep(0.01)
else:
    os.setpgid(0, 0)
    os.write(1, b"x")
    time.sleep(1000)
'"""
"""Has a helper in a group of its own. Exits with the program, or not."""
SERVERS = {
    "plain": f"exec {SLEEP}",
    "stubborn": f"trap '' TERM HUP; {SLEEP}; {SLEEP}",
    "wrapped": f"sh -c 'sh -c \"{SLEEP}; :\"; :' ; :",
    "leaderless": f"{SLEEP} & exit 0",
    "grouped": GROUPED % True,
    "grouped-polite": GROUPED % False,
    "polite": "trap 'echo TERM > \"$0\"; exit 0' TERM; while :; do sleep 0.05; done",
}


def start(kind: str, argument: str = "") -> int:
    """Start a server and return its process group."""
    command = ["sh", "-c", SERVERS[kind], argument]
    reader, writer = os.pipe()
    process = Popen(command, stdin=DEVNULL, stdout=writer, stderr=DEVNULL, start_new_session=True)
    os.close(writer)
    if kind in ("grouped", "grouped-polite"):
        os.read(reader, 1)  # written once the helper has its group
    os.close(reader)
    process.returncode = 0  # so that nobody reaps it, as with a server that the pool has not reaped yet
    return process.pid


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def commands() -> list[str]:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    return line.decode().split()


def fork_worker(guardian: guardian_module.Guardian, *, unwind: bool) -> int:
    """Fork a worker that runs until it is killed; it may leave the pool's block, as a copy of the program would."""
    pipe = guardian._pipe
    ready, tell = os.pipe()
    worker = os.fork()
    if not worker:
        for descriptor in (0, 1):  # the test waits until they have ended
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        if unwind:
            guardian.close()
            guardian.add(os.getpid())
            guardian.remove(os.getpid())
            guardian.add(os.getpid())
        os.write(tell, bytes(Path(f"/proc/self/fd/{pipe}").readlink()))
        while True:
            time.sleep(1000)
    os.close(tell)
    say(worker=worker, covered=os.read(ready, 1000).decode())
    os.close(ready)
    return worker


def main() -> None:
    options = json.loads(sys.argv[1])
    if shell := options.get("shell"):
        guardian_module.SHELL = shell
    if options.get("ignore_sigchld"):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if options.get("block_signals"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR1})
    if options.get("inheritable"):
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    warnings: list[str] = []
    guardian = guardian_module.Guardian(warnings.append)
    groups = [start(*kind.split(":", 1)) for kind in options.get("servers", ["plain"])]
    if options.get("threads"):
        guardians = [guardian_module.Guardian(warnings.append) for _ in groups]
        threads = [
            threading.Thread(target=each.add, args=(group,)) for each, group in zip(guardians, groups, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        guardian = guardians[0]
    else:
        for group in groups:
            guardian.add(group)
    removed = [start("plain") for _ in range(options.get("removed", 0))]
    for group in removed:
        guardian.add(group)
    for group in removed:
        guardian.remove(group)
    say(groups=groups, removed=removed, guardian=guardian.process_id, warnings=warnings)
    while True:
        command, *arguments = commands()
        if command == "exit":
            os._exit(3)
        elif command == "fork":
            fork_worker(guardian, unwind=False)
        elif command == "fork-and-unwind":
            fork_worker(guardian, unwind=True)
        elif command == "add":
            group = start(arguments[0])
            guardian.add(group)
            say(group=group, guardian=guardian.process_id, warnings=warnings)
        elif command == "fill":  # until it is replaced
            before, lines = guardian.process_id, 0
            while guardian.process_id == before and lines < 1_000_000:
                lines += 2
                guardian.add(1_000_000_000)
                guardian.remove(1_000_000_000)
            say(guardian=guardian.process_id, lines=lines, warnings=warnings)
        elif command == "close-all":
            # And open a file with each number, which must not be written to.
            with Path(arguments[0]).open("w+b") as file:
                for descriptor in range(2, 64):
                    if descriptor != file.fileno():
                        with suppress(OSError):
                            os.fstat(descriptor)
                            os.dup2(file.fileno(), descriptor)
            say(pipe=guardian._pipe)
        elif command == "remove":
            guardian.remove(int(arguments[0]))
            say(guardian=guardian.process_id)


main()
