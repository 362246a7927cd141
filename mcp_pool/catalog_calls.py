"""What servers offer together: views of the catalog, and calls by the names in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    CallToolResult,
    CompleteResult,
    GetPromptResult,
    PromptReference,
    ReadResourceResult,
    RequestParamsMeta,
    ResourceTemplateReference,
)

from mcp_pool.calls.lookup import find
from mcp_pool.catalog.view import CatalogView
from mcp_pool.config.settings import DEFAULT, Seconds
from mcp_pool.config.validation import kind_problems
from mcp_pool.errors import ConfigError
from mcp_pool.server import Server
from mcp_pool.supervision.entries import PromptEntry, ResourceEntry, ResourceTemplateEntry, ToolEntry, digest
from mcp_pool.supervision.subscriptions import Subscription

if TYPE_CHECKING:  # loaded with the first pool
    from mcp_pool.catalog.catalog import Catalog
    from mcp_pool.supervision.supervisor import Supervisor


class CatalogCalls:
    """The part of `MCPPool` that is about what its servers offer. Not constructed directly."""

    _supervisor: Supervisor
    _catalog: Catalog

    @property
    def servers(self) -> Mapping[str, Server]:
        """The current servers by id, as a read-only copy, in the order in which they were first added."""
        rows = self._supervisor.registry.rows
        return MappingProxyType({server_id: Server(server_id, self._supervisor) for server_id in rows})

    def server(self, server_id: str) -> Server:
        """Return a handle on one current server, or raise `UnknownServer`."""
        self._supervisor.row(server_id)
        return Server(server_id, self._supervisor)

    @property
    def tools(self) -> CatalogView[str, ToolEntry]:
        """The tools by catalog name, read-only: stale while their server reconnects, without those of a failed one.

        The order is that in which servers were first added, and for each server that in which its tools were first
        seen. Tools that wait for approval (see `on_changed` of a spec) are not in it.
        """
        return self._catalog.tools

    @property
    def prompts(self) -> CatalogView[str, PromptEntry]:
        """The prompts by catalog name, likewise."""
        return self._catalog.prompts

    @property
    def resources(self) -> CatalogView[tuple[str, str], ResourceEntry]:
        """The resources by server id and URI, likewise."""
        return self._catalog.resources

    @property
    def resource_templates(self) -> CatalogView[tuple[str, str], ResourceTemplateEntry]:
        """The resource templates by server id and URI template, likewise."""
        return self._catalog.resource_templates

    def tools_digest(self) -> str:
        """Return one fingerprint for all tools on offer: it changes if and only if a name or a fingerprint does.

        The order of tools does not matter, and neither does whether they are stale.
        """
        return digest({name: entry.fingerprint for name, entry in self.tools.items()})

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: Seconds = DEFAULT,
        progress: ProgressFnT | None = None,
        meta: RequestParamsMeta | None = None,
    ) -> CallToolResult:
        """Call a tool by its catalog name. Arguments, result and errors as in `Server.call_tool`.

        If the name may belong to a server whose tools have not been listed yet, the call waits for that server, up to
        `wait_timeout`.

        Raises:
            UnknownTool: No server in the pool offers a tool with this name.
            ToolHeld: The tool waits for approval.
        """
        self._check_name("call_tool", name)
        wait_timeout = self._supervisor.settings.wait_timeout
        entry, timeout = await find(self._catalog.find_tool, "tools", name, timeout, wait_timeout)
        server = Server(entry.server_id, self._supervisor)
        return await server.call_tool(entry.name, arguments, timeout=timeout, progress=progress, meta=meta)

    async def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, *, timeout: Seconds = DEFAULT
    ) -> GetPromptResult:
        """Get a prompt by its catalog name. Waits as `call_tool` does; errors as in `Server.get_prompt`.

        Raises:
            UnknownPrompt: No server in the pool offers a prompt with this name.
        """
        self._check_name("get_prompt", name)
        wait_timeout = self._supervisor.settings.wait_timeout
        entry, timeout = await find(self._catalog.find_prompt, "prompts", name, timeout, wait_timeout)
        return await Server(entry.server_id, self._supervisor).get_prompt(entry.name, arguments, timeout=timeout)

    async def read_resource(self, server_id: str, uri: str, *, timeout: Seconds = DEFAULT) -> ReadResourceResult:
        """Read a resource from a server. Arguments and errors as in `Server.read_resource`."""
        return await self.server(server_id).read_resource(uri, timeout=timeout)

    def subscribe(self, server_id: str, uri: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a resource of a server. See `Server.subscribe`."""
        return self.server(server_id).subscribe(uri)

    async def complete(
        self,
        server_id: str,
        ref: ResourceTemplateReference | PromptReference,
        argument: Mapping[str, str],
        context: Mapping[str, str] | None = None,
        *,
        timeout: Seconds = DEFAULT,
    ) -> CompleteResult:
        """Request completions for an argument from a server. Arguments and errors as in `Server.complete`."""
        return await self.server(server_id).complete(ref, argument, context, timeout=timeout)

    def _check_name(self, method: str, name: object) -> None:
        self._supervisor.check_open()
        for problem in kind_problems("name", name, str, "must be a string"):
            raise ConfigError(f"{method}: {' '.join(problem)}. Nothing was sent.", problems=[problem])
