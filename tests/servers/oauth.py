"""An MCP server behind OAuth and its authorization server, built from parts of the SDK, in one process.

    python oauth.py [option ...]

The MCP server has streamable HTTP at /mcp and the old transport at /sse, with the tools echo, hold and release; its answers
are JSON, so that no part of an answer arrives before the tool has run. The authorization server accepts everybody: its page
redirects with a code at once. The first line on stdout is the port of the MCP server. Each line on stdin is a JSON object
of commands, answered by a line with the state (see `control`). At the end of stdin the process exits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - as in `http_raw.py`

import anyio
import uvicorn
from http_wire import listening
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    ProviderTokenVerifier,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.routes import create_auth_routes
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from misbehaving import append
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp, Receive, Scope, Send

SCOPE = "tools"


class Authority:
    """The clients of the authorization server, and what it has granted."""

    def __init__(self) -> None:
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.tokens: dict[str, AccessToken] = {}
        self.refreshers: dict[str, RefreshToken] = {}
        self.lifetime = 3600
        """The declared lifetime of tokens, in seconds."""
        self.count: Counter[str] = Counter()
        """How many times it has done what."""

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        """Find a client."""
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Register a client."""
        self.clients[client_info.client_id] = client_info
        self.count["registered"] += 1

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """Redirect back with a code."""
        code = os.urandom(20).hex()
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [SCOPE],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
        )
        self.count["authorized"] += 1
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state)

    async def load_authorization_code(self, _client: OAuthClientInformationFull, code: str) -> AuthorizationCode | None:
        """Find a code."""
        return self.codes.get(code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, code: AuthorizationCode
    ) -> OAuthToken:
        """Exchange a code for tokens."""
        del self.codes[code.code]
        self.count["exchanged"] += 1
        return self.grant(client.client_id, code.scopes)

    async def load_refresh_token(self, _client: OAuthClientInformationFull, token: str) -> RefreshToken | None:
        """Find a refresh token."""
        return self.refreshers.get(token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        """Exchange a refresh token, which is used up, for new tokens."""
        del self.refreshers[token.token]
        self.count["refreshed"] += 1
        await asyncio.sleep(0.05)  # long enough for all concurrent callers to arrive
        return self.grant(client.client_id, scopes)

    async def load_access_token(self, token: str) -> AccessToken | None:
        """Find an access token."""
        return self.tokens.get(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        """Forget a token."""

    def grant(self, client_id: str, scopes: list[str]) -> OAuthToken:
        """Make a pair of tokens."""
        access, refresh = f"access-{os.urandom(12).hex()}", f"refresh-{os.urandom(12).hex()}"
        self.tokens[access] = AccessToken(token=access, client_id=client_id, scopes=scopes)
        self.refreshers[refresh] = RefreshToken(token=refresh, client_id=client_id, scopes=scopes)
        return OAuthToken(
            access_token=access, refresh_token=refresh, expires_in=self.lifetime, scope=" ".join(scopes) or None
        )


class Door:
    """A layer before the authorization server, which records the requests and can reject them all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.status: int | None = None
        """The status for every request, or none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.status is not None:
            await PlainTextResponse("closed", self.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def with_tools(auth: AuthSettings, authority: Authority, count: Counter[str]) -> MCPServer[Any]:
    """The MCP server."""
    verifier = ProviderTokenVerifier(authority)
    server: MCPServer[Any] = MCPServer("guarded", auth=auth, token_verifier=verifier, log_level="WARNING")
    held: dict[str, anyio.Event] = {}

    @server.tool(structured_output=False)
    def echo(text: str) -> str:
        """Answer the text."""
        count["echo"] += 1
        return text

    @server.tool(structured_output=False)
    async def hold(key: str) -> str:
        """Answer the key when `release` is called with it."""
        count["hold"] += 1
        held[key] = anyio.Event()
        await held[key].wait()
        return key

    @server.tool(structured_output=False)
    def release(key: str) -> str:
        """Let the call of `hold` with this key be answered."""
        held.pop(key).set()
        return "released"

    return server


class Guarded:
    """Both servers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sockets = [listening(options.port), listening()]
        own, other = (f"http://127.0.0.1:{taken.getsockname()[1]}" for taken in self.sockets)
        self.ledger: str | None = options.ledger
        self.authority = Authority()
        registration = ClientRegistrationOptions(enabled=True, valid_scopes=[SCOPE], default_scopes=[SCOPE])
        routes = create_auth_routes(self.authority, AnyHttpUrl(other), client_registration_options=registration)
        self.door = Door(Starlette(routes=routes))
        settings = AuthSettings(
            issuer_url=AnyHttpUrl(other),
            resource_server_url=AnyHttpUrl(f"{own}/mcp"),
            required_scopes=[SCOPE],
            validate_token_resource=False,
        )
        server = with_tools(settings, self.authority, self.authority.count)
        self.app = server.streamable_http_app(json_response=True)
        self.app.router.routes.extend(server.sse_app().routes)
        self.servers: list[uvicorn.Server] = []

    def control(self, orders: dict[str, Any]) -> dict[str, int]:
        """Carry out commands, and return the state.

        `lifetime`: the declared lifetime of tokens from now on, in seconds; `revoke`: true, all access tokens;
        `narrow`: true, remove all scopes from them; `status`: the status for every request to the authorization server, or
        null; `down`: true, refuse all connections to it.
        """
        self.authority.lifetime = orders.get("lifetime", self.authority.lifetime)
        if orders.get("revoke"):
            self.authority.tokens.clear()
        if orders.get("narrow"):
            for token in self.authority.tokens.values():
                token.scopes = []
        self.door.status = orders.get("status", self.door.status)
        if orders.get("down"):
            for listener in self.servers[1].servers:
                listener.close()
        return dict(self.authority.count)

    async def note(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record a request to the MCP server."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        append(self.ledger, {"verb": scope["method"], "auth": headers.get("authorization"), "method": None})
        await self.app(scope, receive, send)

    async def serve(self) -> None:
        """Listen, print the port, and serve until the end of stdin."""
        # One request per connection, so that a server that is down is down for everybody at once.
        close = [("Connection", "close")]
        for app, headers in ((self.note, []), (self.door, close)):
            config = uvicorn.Config(app, interface="asgi3", log_level="critical", headers=headers)
            self.servers.append(uvicorn.Server(config))
        print(self.sockets[0].getsockname()[1], flush=True)
        threading.Thread(target=self.take_orders, args=[asyncio.get_running_loop()], daemon=True).start()
        async with anyio.create_task_group() as group:
            for server, taken in zip(self.servers, self.sockets, strict=True):
                group.start_soon(self.serve_one, server, taken)

    async def serve_one(self, server: uvicorn.Server, taken: socket.socket) -> None:
        """Serve one of the two servers."""
        await server.serve(sockets=[taken])

    def take_orders(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry out the commands on stdin, and exit at its end."""

        async def carry_out(line: bytes) -> dict[str, int]:
            return self.control(json.loads(line))

        for line in sys.stdin.buffer:
            state = asyncio.run_coroutine_threadsafe(carry_out(line), loop).result()
            print(json.dumps(state), flush=True)
        os._exit(0)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="An MCP server behind OAuth.", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=0, help="the port (0: a free one)")
    parser.add_argument("--ledger", metavar="FILE", help="a line for each request to the MCP server")
    return parser.parse_args()


async def main() -> None:
    """Serve."""
    await Guarded(parse_options()).serve()


if __name__ == "__main__":
    asyncio.run(main())
