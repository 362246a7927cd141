"""An in-process server whose listings change, fail, hang and expire, in both protocols."""

from __future__ import annotations

from typing import Any

import anyio
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ToolsListChanged
from mcp_types import (
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    Resource,
    ResourceTemplate,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    Tool,
)

PAGE = 2


class Changing:
    """What the server offers, how it behaves, and how often it was asked."""

    def __init__(self, *tools: str, reports: bool = True) -> None:
        self.tools = dict.fromkeys(tools or ("echo",), "")
        """Descriptions by name."""
        self.prompts = ["greet", "part", "wave"]
        self.resources = ["res://a", "res://b", "res://c"]
        self.templates = ["res://{x}", "res://{y}", "res://{z}"]
        self.fails: dict[str, Exception] = {}
        """What parts fail with."""
        self.hangs: set[str] = set()
        """Parts that are never answered."""
        self.holds: anyio.Event | None = None
        """What the answers of listings of tools wait for."""
        self.ttl = 0
        """How long listings live, in milliseconds."""
        self.asked: list[str] = []
        """The parts that were asked for, whole listings only."""
        self.refuses = False
        """Whether it refuses to open streams of changes."""
        self.delays: anyio.Event | None = None
        """What the answers to requests for streams wait for."""
        self.honors: SubscriptionFilter | None = None
        """What it agrees to tell; None for everything that it is asked for."""
        self.streams = 0
        """How many streams of changes were opened."""
        self._bus = InMemorySubscriptionBus()
        self.listen = ListenHandler(self._bus)
        self.server = Server[Any](
            "changing",
            on_list_tools=self._list_tools,
            on_call_tool=self._call,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            **({"on_subscriptions_listen": self._listening} if reports else {}),
        )

    async def report(self, *parts: str) -> None:
        """Report that lists have changed."""
        events = {"tools": ToolsListChanged(), "prompts": PromptsListChanged(), "resources": ResourcesListChanged()}
        for part in parts or ("tools",):
            await self._bus.publish(events[part])

    async def _part(self, part: str, params: PaginatedRequestParams | None, names: list[str]) -> tuple[list[str], Any]:
        """The names on a page, and what else its result contains."""
        begin = int(params.cursor) if params is not None and params.cursor else 0
        if begin == 0:
            self.asked.append(part)
        if part == "tools" and self.holds is not None:
            await self.holds.wait()
        if part in self.hangs:
            await anyio.sleep_forever()
        if part in self.fails:
            raise self.fails[part]
        end = begin + PAGE
        return names[begin:end], {"ttl_ms": self.ttl, "next_cursor": str(end) if end < len(names) else None}

    async def _list_tools(self, _context: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        names, more = await self._part("tools", params, list(self.tools))
        schema = {"type": "object"}
        tools = [Tool(name=name, description=self.tools[name], input_schema=schema) for name in names]
        return ListToolsResult(tools=tools, **more)

    async def _list_prompts(self, _context: Any, params: PaginatedRequestParams | None) -> ListPromptsResult:
        names, more = await self._part("prompts", params, self.prompts)
        return ListPromptsResult(prompts=[Prompt(name=name) for name in names], **more)

    async def _list_resources(self, _context: Any, params: PaginatedRequestParams | None) -> ListResourcesResult:
        uris, more = await self._part("resources", params, self.resources)
        return ListResourcesResult(resources=[Resource(name=uri, uri=uri) for uri in uris], **more)

    async def _list_templates(
        self, _context: Any, params: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        uris, more = await self._part("resource_templates", params, self.templates)
        templates = [ResourceTemplate(name=uri, uri_template=uri) for uri in uris]
        return ListResourceTemplatesResult(resource_templates=templates, **more)

    async def _call(self, _context: Any, params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[], structured_content={"called": params.name})

    async def _get_prompt(self, _context: Any, params: GetPromptRequestParams) -> GetPromptResult:
        return GetPromptResult(description=params.name, messages=[])

    async def _listening(
        self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        if self.delays is not None:
            await self.delays.wait()
        if self.refuses:
            raise MCPError(INVALID_REQUEST, "no streams here")
        self.streams += 1
        if self.honors is not None:
            params = SubscriptionsListenRequestParams(notifications=self.honors)
        return await self.listen(context, params)
