"""A program that holds two stdio servers and is killed by a test. Run as `host_program.py COMMAND ARGUMENT…`."""

import os
import signal
import sys

import anyio

from mcp_pool import MCPPool, StdioServer


async def main() -> None:
    spec = StdioServer(sys.argv[1], sys.argv[2:])
    async with MCPPool({"a": spec, "b": spec}, open_timeout=None):
        print("open", flush=True)
        await anyio.sleep_forever()


signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
anyio.run(main)
