"""A web application with a pool that is open for as long as the application runs: its block is in the lifespan.

python examples/starlette_app.py         # sends the application a few requests, without a network
uvicorn --app-dir examples starlette_app:app   # serves it
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx2
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_pool import InProcessServer, MCPPool, MCPPoolError

calculator = MCPServer("calculator", log_level="WARNING")


@calculator.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Open the pool before the first request, and close it after the last one."""
    async with MCPPool({"calculator": InProcessServer(calculator)}) as pool:
        app.state.pool = pool
        yield


async def call(request: Request) -> JSONResponse:
    """Call a tool by its catalog name, with the query parameters as arguments."""
    pool: MCPPool = request.app.state.pool
    try:
        result = await pool.call_tool(request.path_params["tool"], dict(request.query_params))
    except MCPPoolError as error:
        return JSONResponse({"error": str(error)}, status_code=502)
    return JSONResponse(result.structured_content)


async def health(request: Request) -> JSONResponse:
    """Return the status of each server."""
    statuses = request.app.state.pool.get_all_statuses()
    return JSONResponse({server_id: status.value for server_id, status in statuses.items()})


def snapshot(request: Request) -> JSONResponse:
    """Tell everything, from a synchronous endpoint: the framework runs it in a worker thread."""
    pool: MCPPool = request.app.state.pool
    return JSONResponse(pool.snapshot().to_dict())


routes = [Route("/call/{tool}", call), Route("/health", health), Route("/snapshot", snapshot)]
app = Starlette(lifespan=lifespan, routes=routes)


async def main() -> None:
    """Send the application a few requests, without a network."""
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as client,
    ):
        for path in ("/health", "/call/calculator__add?a=2&b=3", "/call/calculator__divide?a=2&b=3"):
            response = await client.get(path)
            print(path, "->", response.status_code, response.text)
        seen = (await client.get("/snapshot")).json()
        print("connected:", seen["connected"], "calls done:", seen["calls_done"], "of", *seen["servers"])
    print("left the lifespan:", app.state.pool)


if __name__ == "__main__":
    anyio.run(main)
