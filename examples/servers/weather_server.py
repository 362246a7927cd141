"""A small HTTP server for the examples. It prints its port, and exits when its standard input ends.

python examples/servers/weather_server.py
"""

import sys
import threading

import uvicorn
from mcp.server.mcpserver import MCPServer

server = MCPServer("weather", log_level="WARNING")


@server.tool(structured_output=False)
def forecast(city: str) -> str:
    """Say what the weather will be."""
    return f"sunshine in {city}"


def main() -> None:
    """Serve until the standard input ends."""
    config = uvicorn.Config(server.streamable_http_app(), host="127.0.0.1", port=0, log_level="warning")
    listening = config.bind_socket()
    print(listening.getsockname()[1], flush=True)
    service = uvicorn.Server(config)

    def end_with_input() -> None:
        sys.stdin.read()
        service.should_exit = True

    threading.Thread(target=end_with_input, daemon=True).start()
    service.run([listening])


if __name__ == "__main__":
    main()
