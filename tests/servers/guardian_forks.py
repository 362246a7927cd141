"""Forks in one thread while another opens and closes pipes, and counts the children that hold one of them."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import types
import warnings
from contextlib import suppress
from pathlib import Path

PACKAGES = ("mcp_pool", "mcp_pool.transports", "mcp_pool.transports.stdio")

for name in PACKAGES:  # without running their `__init__`, which would import the SDK
    package = types.ModuleType(name)
    package.__path__ = [str(Path(sys.argv[1], *name.split(".")))]
    sys.modules[name] = package
fork_cover = importlib.import_module(f"{PACKAGES[-1]}.fork_cover")
warnings.simplefilter("ignore", DeprecationWarning)  # about a fork in a program with threads, which is what is tested
sys.setswitchinterval(1e-6)
stopped = False


def open_and_close() -> None:
    while not stopped:
        for end in fork_cover.open_pipe():
            fork_cover.close_end(end)


thread = threading.Thread(target=open_and_close)
thread.start()
leaks = 0
for _ in range(300):
    child = os.fork()
    if not child:
        links = []
        for number in range(3, 20):
            with suppress(OSError):
                links.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        os._exit(any(link.startswith("pipe:") for link in links))
    leaks += os.waitpid(child, 0)[1] != 0
stopped = True
thread.join()
print(leaks, "leaks")
