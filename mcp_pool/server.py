"""The handle on one server: its state, and calls by the server's own names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, final

import anyio
import attrs
from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    CallToolResult,
    CompleteResult,
    GetPromptResult,
    PromptReference,
    ReadResourceResult,
    RequestParamsMeta,
    ResourceTemplateReference,
    Tool,
)

from mcp_pool.calls.call import Request, call
from mcp_pool.calls.progress import ProgressFeed
from mcp_pool.calls.refresh import refresh
from mcp_pool.calls.requests import check_uri, completion, invalid, prompt_request, resource_read, tool_call
from mcp_pool.calls.subscribe import subscribed
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.servers import ServerConfig
from mcp_pool.config.settings import DEFAULT, Default, Seconds
from mcp_pool.config.validation import is_count, kind_of
from mcp_pool.connection.server_info import ServerInfo
from mcp_pool.errors import ConnectError, ConnectionLost
from mcp_pool.supervision.entries import ToolEntry
from mcp_pool.supervision.offering import held_error
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import ConnectionStatus, State
from mcp_pool.supervision.subscriptions import Subscription
from mcp_pool.supervision.waiting import wait_for_connection, wait_until_connected

if TYPE_CHECKING:  # loaded with the first pool
    from mcp_pool.connection.connection import Connection
    from mcp_pool.supervision.supervisor import Supervisor

_T = TypeVar("_T")


@final
@attrs.frozen
class Server:
    """A handle on one server. Returned by `MCPPool.server` and `MCPPool.servers`, not constructed directly.

    It refers to the id: if the server is disconnected and another is added under the same id, it refers to the new one.

    Attributes:
        server_id: The id in the pool.
    """

    server_id: str
    _supervisor: Supervisor = attrs.field(repr=False)

    def __repr__(self) -> str:
        status = self._supervisor.registry.servers.status(self.server_id) or ConnectionStatus.DISCONNECTED
        return f"<Server {self.server_id!r} {status.value}>"

    @property
    def status(self) -> ConnectionStatus:
        """The status; `DISCONNECTED` if the server has left the pool without an error."""
        return self._supervisor.registry.servers.status(self.server_id) or ConnectionStatus.DISCONNECTED

    @property
    def state(self) -> State | None:
        """The state behind the status, with its details; None if the server has left the pool."""
        row = self._row_or_none
        return None if row is None else row.state

    @property
    def config(self) -> ServerConfig | None:
        """The server's spec; None if it has left the pool, or its entry in a configuration file is invalid."""
        row = self._row_or_none
        return None if row is None or isinstance(row.target.spec, InvalidServer) else row.target.spec

    @property
    def generation(self) -> int:
        """How many connections there have been: the number of the current one. 0 if the server has left the pool."""
        row = self._row_or_none
        return 0 if row is None else row.state.generation

    @property
    def last_error(self) -> ConnectError | ConnectionLost | None:
        """The latest failure, even if the server has reconnected since; None if there was none."""
        return self._supervisor.registry.servers.last_error(self.server_id)

    @property
    def client(self) -> Client | None:
        """The live `mcp.Client`, for anything the pool does not wrap; None while there is no connection.

        Calls made directly on it bypass the pool's timeouts, counters and error messages. It belongs to the pool's
        event loop: reading it in another thread raises `RuntimeError`.
        """
        self._supervisor.check_here()
        connection = self._live
        return None if connection is None else connection.client

    @property
    def info(self) -> ServerInfo | None:
        """What the server says about itself; None while there is no connection."""
        connection = self._live
        return None if connection is None else connection.info

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: Seconds = DEFAULT,
        progress: ProgressFnT | None = None,
        meta: RequestParamsMeta | None = None,
    ) -> CallToolResult:
        """Call a tool by the server's own name for it.

        Args:
            name: The tool's name.
            arguments: Its arguments, converted to JSON when the call is made. They must not be circular.
            timeout: Seconds for the whole call, including the wait for the server; None for no limit. By default the
                server's `call_timeout` (for silence; progress restarts it) and `max_call_time` apply.
            progress: An async function of (progress, total, message), called in order, one report at a time. If it
                raises, the exception's type is logged. The result waits for it for at most half a second.
            meta: Sent as `_meta`.

        Returns:
            The result, even if its `is_error` says that the tool failed.

        Raises:
            ConfigError: An argument is invalid; nothing was sent.
            UnknownTool: The spec's `include_tools` or `exclude_tools` leave the tool out.
            ServerUnavailable: There was no connection, or no slot, within `wait_timeout`; the call has not run.
            ConnectionLost: The connection was lost; `may_have_run` says whether the tool may have run.
            CallTimeout: The call was not answered in time.
            HttpStatusError: The server responded with an HTTP error that contains no JSON-RPC message.
            InvalidResponse: The result violates the protocol or the tool's schema.
            mcp.MCPError: The error that the server returned.
        """
        row = self._row
        request = tool_call(row.target, name, arguments, timeout, meta)
        if progress is not None and not callable(progress):
            raise invalid(self.server_id, ("progress", f"must be an async function, not {kind_of(progress)}"))
        if (held := row.offering.held(name)) is not None:
            raise held_error(held)
        if progress is None:
            return await self._call(row, request)
        feed = ProgressFeed(self.server_id, progress)
        return await feed.during(partial(self._call, row, attrs.evolve(request, note_progress=feed.put)))

    async def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, *, timeout: Seconds = DEFAULT
    ) -> GetPromptResult:
        """Get a prompt by the server's own name for it. Arguments and errors as in `call_tool`."""
        row = self._row
        return await self._call(row, prompt_request(row.target, name, arguments, timeout))

    async def read_resource(self, uri: str, *, timeout: Seconds = DEFAULT) -> ReadResourceResult:
        """Read a resource by its URI. Arguments and errors as in `call_tool`."""
        row = self._row
        return await self._call(row, resource_read(row.target, uri, timeout))

    def subscribe(self, uri: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a resource: an async context manager that gives an async iterator of its updates.

        Entering it waits until the server has confirmed the subscription; leaving it unsubscribes. The subscription
        survives reconnects, after which an update says that some may have been missed.

        Args:
            uri: The resource.

        Raises:
            ServerUnavailable: There was no connection within `wait_timeout`. From the iterator: the server has left the
                pool, or its automatic reconnects have stopped.
            CallTimeout: The server did not confirm the subscription within `call_timeout`.
            mcp.MCPError: The server refused it. From the iterator: it refused it after a reconnect.
        """
        row = self._row
        check_uri(row.target, uri)
        return subscribed(row, uri, self._supervisor.settings.wait_timeout)

    async def complete(
        self,
        ref: ResourceTemplateReference | PromptReference,
        argument: Mapping[str, str],
        context: Mapping[str, str] | None = None,
        *,
        timeout: Seconds = DEFAULT,
    ) -> CompleteResult:
        """Request completions for an argument.

        Args:
            ref: The prompt or resource template that the argument belongs to.
            argument: The `name` of the argument, and its `value` so far.
            context: The values of arguments that are already known.
            timeout: As in `call_tool`; so are the errors.
        """
        row = self._row
        return await self._call(row, completion(row.target, ref, argument, context, timeout))

    async def list_tools(self) -> tuple[Tool, ...]:
        """Return the tools in the server's latest listing, without those that are filtered out or held.

        Raises:
            ServerUnavailable: The server did not connect within `wait_timeout`.
        """
        row = self._row
        if "tools" not in row.offering.listed:
            wait_timeout = self._supervisor.settings.wait_timeout
            deadline = math.inf if wait_timeout is None else anyio.current_time() + wait_timeout
            await wait_for_connection(row, deadline)
        return tuple(entry.tool for entry in row.offering.offer.tools.values())

    @property
    def held_tools(self) -> Mapping[str, ToolEntry]:
        """The tools that wait for `approve`, by the server's own names; see `on_changed` of its spec."""
        row = self._row_or_none
        held = () if row is None else row.offering.offer.held.values()
        return MappingProxyType({entry.name: entry for entry in held})

    def approve(self, name: str, fingerprint: str) -> None:
        """Offer a tool that is held because it is new or has changed.

        Args:
            name: The server's own name for it.
            fingerprint: The fingerprint of the definition that was reviewed.

        Raises:
            UnknownTool: The server does not offer this tool.
            ToolHeld: The definition has another fingerprint by now; the tool is still held.
        """
        self._row.approve(name, fingerprint)

    async def refresh(self) -> None:
        """List what the server offers again. Errors as in `call_tool`; what cannot be listed stays as it was.

        Not needed for changes that a server reports by itself.
        """
        await refresh(self._row, self._supervisor.settings.wait_timeout)

    async def restart(self, *, generation: int | Literal[Default.DEFAULT] = DEFAULT) -> None:
        """Reconnect and wait until the new connection is open, without waiting for any back-off.

        A server that has failed is tried again. Calls in flight end with `ConnectionLost`.

        Args:
            generation: Do nothing if there has been a connection newer than this one, so that many callers who lost the
                same connection cause only one reconnect. Default: always reconnect.

        Raises:
            ConnectError: The attempt failed; the server stays in the pool, under its restart policy.
        """
        if generation is not DEFAULT and not is_count(generation, least=0):
            raise invalid(self.server_id, ("generation", f"must be a whole number, not {generation!r}"))
        row = self._row
        if generation is DEFAULT or row.state.generation <= generation:
            await wait_until_connected(row)

    @property
    def _row_or_none(self) -> Row | None:
        """The row. Each property looks it up once: if another thread reads, it may be gone the next time."""
        return self._supervisor.registry.rows.get(self.server_id)

    @property
    def _live(self) -> Connection | None:
        """The connection that is open or draining."""
        row = self._row_or_none
        connection = None if row is None else row.connection
        return None if connection is None or connection.closed.is_set() else connection

    @property
    def _row(self) -> Row:
        return self._supervisor.row(self.server_id)

    async def _call(self, row: Row, request: Request[_T]) -> _T:
        return await call(row, request, self._supervisor.settings.wait_timeout)
