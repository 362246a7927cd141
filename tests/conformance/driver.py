"""The client that the official conformance suite tests: `driver.py BACKEND URL`.

For each scenario, the suite starts a server, runs this program with the server's URL, and checks what the server
received. `MCP_CONFORMANCE_SCENARIO` is the name of the scenario, `MCP_CONFORMANCE_CONTEXT` is JSON with data for it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx2
from mcp.client import ClientRequestContext
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp_types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from mcp_pool import ClientCallbacks, ConnectError, HttpServer, MCPPool

REDIRECT_URI = "http://localhost:3000/callback"
CLIENT_METADATA_URL = "https://conformance-test.local/client-metadata.json"
"""The client id that the suite expects; the document does not have to exist."""
UNRELATED = "test_mrtr_unrelated"
"""The tool to call while another call waits for the user."""


@asynccontextmanager
async def connected(url: str, auth: httpx2.Auth | None = None) -> AsyncIterator[MCPPool]:
    """A pool in which the suite's server is connected as `server`."""
    async with MCPPool() as pool:
        callbacks = ClientCallbacks(elicitation=partial(accept, pool))
        await pool.connect("server", HttpServer(url, auth=auth, callbacks=callbacks))
        yield pool


async def accept(pool: MCPPool, _context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """Accept a form with its defaults; where a field has no default, the suite expects True.

    First call the unrelated tool, if there is one: its request must not contain anything from the waiting call.
    """
    assert isinstance(params, ElicitRequestFormParams)
    if (unrelated := f"server__{UNRELATED}") in pool.tools:
        assert "unrelated-ok" in str((await pool.call_tool(unrelated)).content)
    fields = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={name: field.get("default", True) for name, field in fields.items()})


async def call_each(pool: MCPPool, calls: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Make the calls one after another, and return all text from the results."""
    results = [await pool.call_tool(f"server__{name}", arguments) for name, arguments in calls]
    assert not any(result.is_error for result in results), results
    return " ".join(str(result.content) for result in results)


async def call_all(pool: MCPPool, arguments: dict[str, Any]) -> None:
    await call_each(pool, [(entry.name, arguments) for entry in pool.tools.values()])


async def handshake_and_listing(pool: MCPPool) -> None:
    """Do nothing more than connect."""


async def addition(pool: MCPPool) -> None:
    assert "is 8" in await call_each(pool, [("add_numbers", {"a": 5, "b": 3})])


async def reconnection(pool: MCPPool) -> None:
    assert "completed" in await call_each(pool, [("test_reconnection", {})])


async def every_kind_of_request(pool: MCPPool) -> None:
    await call_all(pool, {})
    client = pool.server("server").client
    assert client is not None
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


async def calls_of_the_context(pool: MCPPool) -> None:
    await call_each(pool, [(call["name"], call["arguments"]) for call in context()["toolCalls"]])


async def all_tools_in_the_catalog(pool: MCPPool) -> None:
    await call_all(pool, {"region": "us-west1"})


async def echo_of_a_schema(pool: MCPPool) -> None:
    schema = pool.tools["server__json_schema_2020_12_tool"].tool.input_schema
    await call_each(pool, [("json_schema_echo", {"schema": schema})])


async def form_with_defaults(pool: MCPPool) -> None:
    await call_each(pool, [("test_client_elicitation_defaults", {})])


async def calls_that_ask(pool: MCPPool) -> None:
    """Call the tools that ask for input, and the one whose result lacks `resultType`."""
    tools = ("test_mrtr_echo_state", "test_mrtr_no_state", "test_mrtr_no_result_type", UNRELATED)
    answers = await call_each(pool, [(tool, {}) for tool in tools])
    # The suite checks that no second request follows the result without `resultType`, and does not see what it is.
    assert all(f"{what}-ok" in answers for what in ("echo-state", "no-state", "unrelated")), answers


async def first_tool(pool: MCPPool) -> None:
    await call_each(pool, [(next(iter(pool.tools.values())).name, {})])


SCENARIOS: dict[str, Callable[[MCPPool], Awaitable[None]]] = {
    "initialize": handshake_and_listing,
    "tools_call": addition,
    "sse-retry": reconnection,
    "request-metadata": handshake_and_listing,
    "http-standard-headers": every_kind_of_request,
    "http-custom-headers": calls_of_the_context,
    "http-invalid-tool-headers": all_tools_in_the_catalog,
    "json-schema-ref-no-deref": handshake_and_listing,
    "json-schema-2020-12-preservation": echo_of_a_schema,
    "elicitation-sep1034-client-defaults": form_with_defaults,
    "sep-2322-client-request-state": calls_that_ask,
}
"""What to do once the server is connected; in the `auth/` scenarios it is `first_tool`."""

REFUSED = {
    "auth/iss-normalized",
    "auth/iss-supported-missing",
    "auth/iss-unexpected",
    "auth/iss-wrong-issuer",
    "auth/metadata-issuer-mismatch",
    "auth/resource-mismatch",
    "auth/scope-retry-limit",
}
"""Scenarios in which the server must not be trusted, or never grants what it demands: the connection must fail."""


def context() -> dict[str, Any]:
    """The data that the suite provides for this scenario."""
    return json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))


class Storage:
    """Tokens and client information, kept in memory."""

    def __init__(self, client_info: OAuthClientInformationFull | None = None) -> None:
        self.tokens: OAuthToken | None = None
        self.client_info = client_info

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client_info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client_info = client_info


class Browser:
    """A user at a browser, who agrees at once and is redirected back with a code."""

    def __init__(self) -> None:
        self.sent_back: dict[str, str] = {}

    async def visit(self, url: str) -> None:
        async with httpx2.AsyncClient() as http:
            response = await http.get(url)
        self.sent_back = dict(parse_qsl(urlsplit(response.headers["location"]).query))

    async def result(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(**self.sent_back)


def authorization_code(url: str) -> OAuthClientProvider:
    """The authorization code flow, with a client id if the suite provides one."""
    given = context()
    registered = None
    if "client_id" in given:
        registered = OAuthClientInformationFull(
            client_id=given["client_id"],
            client_secret=given["client_secret"],
            issuer=given["issuer"],
            redirect_uris=[REDIRECT_URI],
            token_endpoint_auth_method="client_secret_basic",
        )
    browser = Browser()
    return OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata(client_name="mcp_pool", redirect_uris=[REDIRECT_URI]),
        storage=Storage(registered),
        redirect_handler=browser.visit,
        callback_handler=browser.result,
        client_metadata_url=CLIENT_METADATA_URL,
    )


def client_credentials(url: str) -> OAuthClientProvider:
    """The client credentials flow with a secret."""
    given = context()
    return ClientCredentialsOAuthProvider(url, Storage(), given["client_id"], given["client_secret"])


def signed_client_credentials(url: str) -> OAuthClientProvider:
    """The client credentials flow with a key."""
    given = context()
    assertion = SignedJWTParameters(
        issuer=given["client_id"],
        subject=given["client_id"],
        signing_key=given["private_key_pem"],
        signing_algorithm=given["signing_algorithm"],
    )
    return PrivateKeyJWTOAuthProvider(url, Storage(), given["client_id"], assertion.create_assertion_provider())


AUTHORIZATIONS: dict[str, Callable[[str], httpx2.Auth]] = {
    "auth/client-credentials-basic": client_credentials,
    "auth/client-credentials-jwt": signed_client_credentials,
}
"""The auth flow for some `auth/` scenarios; the default is `authorization_code`."""


async def main(scenario: str, url: str) -> None:
    if not scenario.startswith("auth/"):
        async with connected(url) as pool:
            await SCENARIOS[scenario](pool)
        return
    auth = AUTHORIZATIONS.get(scenario, authorization_code)(url)
    try:
        async with connected(url, auth) as pool:
            assert scenario not in REFUSED, "it should have been rejected"
            await first_tool(pool)
    except ConnectError as error:
        if scenario not in REFUSED:
            raise
        print(f"refused, as it should be: {error}\nfor: {error.__cause__}")


if __name__ == "__main__":
    _, backend, server_url = sys.argv
    anyio.run(partial(main, os.environ["MCP_CONFORMANCE_SCENARIO"], server_url), backend=backend)
