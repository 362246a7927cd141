"""An in-process server whose resources change, for subscriptions in both protocols."""

from __future__ import annotations

from typing import Any

import anyio
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    ListToolsResult,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    Tool,
    UnsubscribeRequestParams,
)

SHELF = "shelf://a"
FORBIDDEN = "shelf://forbidden"


class Shelves:
    """What the server does, and who has subscribed."""

    def __init__(self, *, silent: bool = False, selective: bool = False, generous: bool = False) -> None:
        self.silent = silent
        """Whether it never confirms a subscription."""
        self.selective = selective
        """Whether it accepts subscriptions, but not to resources; with a legacy protocol, none at all."""
        self.generous = generous
        """Whether its streams, in the modern protocol, tell more than they were asked for."""
        self.subscribed: list[str] = []
        """The URIs that clients are subscribed to."""
        self.sessions: list[Any] = []
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self.server = Server[Any](
            "shelves",
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=self._listening,
        )

    async def touch(self, uri: str) -> None:
        """Tell that a resource has changed."""
        if self.generous:
            await self._bus.publish(ToolsListChanged())
        await self._bus.publish(ResourceUpdated(uri))
        for session in self.sessions:
            await session.send_resource_updated(uri)

    async def _list(self, _context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="nothing", input_schema={"type": "object"})])

    async def _call(self, _context: Any, _params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[])

    async def _subscribe(self, context: ServerRequestContext[Any], params: SubscribeRequestParams) -> EmptyResult:
        await self._check(params.uri, is_legacy=True)
        self.subscribed.append(params.uri)
        self.sessions.append(context.session)
        return EmptyResult()

    async def _unsubscribe(self, context: ServerRequestContext[Any], params: UnsubscribeRequestParams) -> EmptyResult:
        self.subscribed.remove(params.uri)
        self.sessions.remove(context.session)
        return EmptyResult()

    async def _listening(
        self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        uris = params.notifications.resource_subscriptions or []
        if self.selective:
            params = SubscriptionsListenRequestParams(notifications=SubscriptionFilter())
        if self.generous:
            filters = SubscriptionFilter(tools_list_changed=True, resource_subscriptions=uris)
            params = SubscriptionsListenRequestParams(notifications=filters)
        for uri in uris:
            await self._check(uri)
        self.subscribed += uris
        try:
            return await self._listen(context, params)
        finally:
            for uri in uris:
                self.subscribed.remove(uri)

    async def _check(self, uri: str, *, is_legacy: bool = False) -> None:
        if self.silent:
            await anyio.sleep_forever()
        if uri == FORBIDDEN or (self.selective and is_legacy):
            raise MCPError(INVALID_PARAMS, "nobody may know")
