"""A program that holds stdio servers and is killed by a test. Run as `host_program.py BACKEND SERVERS`, both JSON.

BACKEND is the name of a backend and its options, SERVERS a list of commands with their arguments.
"""

import json
import os
import signal
import sys

import anyio

from mcp_pool import MCPPool, StdioServer


async def main() -> None:
    servers = json.loads(sys.argv[2])
    specs = {str(number): StdioServer(command, arguments) for number, (command, arguments) in enumerate(servers)}
    async with MCPPool(specs, open_timeout=None):
        print("open", flush=True)
        await anyio.sleep_forever()


signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
backend, backend_options = json.loads(sys.argv[1])
anyio.run(main, backend=backend, backend_options=backend_options)
