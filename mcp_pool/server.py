"""The handle on one server: its state, and calls by the server's own names."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeVar, final

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

from mcp_pool._shared.guard import text_of
from mcp_pool.calls.call import Request, call
from mcp_pool.calls.progress import ProgressFeed
from mcp_pool.config.servers import ServerConfig
from mcp_pool.config.settings import DEFAULT, Default, Seconds, timeout_problems
from mcp_pool.config.validation import argument_problems, is_count, kind_of, kind_problems, plain_json
from mcp_pool.connection.connection import Connection, ServerInfo
from mcp_pool.connection.listing import Inventory, is_offered, take_inventory
from mcp_pool.errors import ConfigError, ConnectError, ConnectionLost, Problem, UnknownTool
from mcp_pool.supervision.row import Row
from mcp_pool.supervision.state import ConnectionStatus, State
from mcp_pool.supervision.supervisor import Supervisor
from mcp_pool.supervision.waiting import wait_for_connection, wait_until_connected

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
        """The server's spec; None if it has left the pool."""
        row = self._row_or_none
        return None if row is None else row.target.spec

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
        self._check(
            kind_problems("name", name, str, "must be a string"),
            argument_problems("arguments", arguments),
            argument_problems("meta", meta),
        )
        if progress is not None and not callable(progress):
            raise self._invalid(("progress", f"must be an async function, not {kind_of(progress)}"))
        given, sent_meta = self._plain("arguments", arguments), self._plain("meta", meta)
        if not is_offered(name, self._row.target.spec):
            reason = f"Tool {name!r} of server {self.server_id!r} is excluded by include_tools or exclude_tools."
            raise UnknownTool(reason, advice="Change these filters in its spec.", server_id=self.server_id)

        def send(client: Client, on_progress: ProgressFnT) -> Awaitable[CallToolResult]:
            return client.call_tool(name, given, progress_callback=on_progress, meta=sent_meta)

        request = Request(send=send, what=f"the call to tool {name!r}", timeout=timeout, tool=name)
        if progress is None:
            return await self._call(request)
        feed = ProgressFeed(self.server_id, progress)
        return await feed.during(partial(self._call, attrs.evolve(request, note_progress=feed.put)))

    async def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, *, timeout: Seconds = DEFAULT
    ) -> GetPromptResult:
        """Get a prompt by the server's own name for it. Arguments and errors as in `call_tool`."""
        self._check(
            kind_problems("name", name, str, "must be a string"), argument_problems("arguments", arguments, str)
        )
        given = self._plain("arguments", arguments)
        return await self._call(
            Request(
                send=lambda client, _: client.get_prompt(name, given),
                what=f"the request for prompt {name!r}",
                timeout=timeout,
            )
        )

    async def read_resource(self, uri: str, *, timeout: Seconds = DEFAULT) -> ReadResourceResult:
        """Read a resource by its URI. Arguments and errors as in `call_tool`."""
        self._check(kind_problems("uri", uri, str, "must be a string"))
        return await self._call(
            Request(
                send=lambda client, _: client.read_resource(uri), what=f"the read of resource {uri!r}", timeout=timeout
            )
        )

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
        self._check(
            kind_problems("ref", ref, (ResourceTemplateReference, PromptReference), "must be a reference"),
            kind_problems("argument", argument, Mapping, "must be a mapping with name and value"),
            argument_problems("argument", argument, str),
            argument_problems("context", context, str),
        )
        fixed, known = self._plain("argument", argument), self._plain("context", context)
        return await self._call(
            Request(
                send=lambda client, _: client.complete(ref, fixed, known),
                what="the completion request",
                timeout=timeout,
            )
        )

    async def list_tools(self) -> tuple[Tool, ...]:
        """Return the tools in the server's latest listing, without those that its spec filters out.

        Raises:
            ServerUnavailable: The server did not connect within `wait_timeout`.
        """
        row = self._row
        if row.inventory is None:
            wait_timeout = self._supervisor.settings.wait_timeout
            deadline = math.inf if wait_timeout is None else anyio.current_time() + wait_timeout
            await wait_for_connection(row, deadline)
        return tuple(row.inventory.tools.values()) if row.inventory is not None else ()

    async def refresh(self) -> None:
        """List what the server offers again. Errors as in `call_tool`; if it fails, the old listing stays."""
        row, number = self._row, 0

        def send(client: Client, _: ProgressFnT) -> Awaitable[Inventory]:
            nonlocal number
            number = row.begin_listing()  # not before the wait for the server, whose first listing comes earlier
            return take_inventory(client, row.target)

        inventory = await self._call(Request(send=send, what="the listing of tools"))
        row.update_inventory(inventory, number)

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
            raise self._invalid(("generation", f"must be a whole number, not {generation!r}"))
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

    def _check(self, *problems: Iterable[Problem]) -> None:
        """Raise `ConfigError` for the first problem with the arguments of a call."""
        for problem in chain(*problems):
            raise self._invalid(problem)

    def _invalid(self, problem: Problem) -> ConfigError:
        reason = f"server {self.server_id!r}: {' '.join(problem)}. Nothing was sent."
        return ConfigError(reason, server_id=self.server_id, problems=[problem])

    def _plain(self, name: str, argument: Mapping[str, Any] | None) -> Any:
        """Return an argument of a call as plain JSON: what was checked is what is sent, also when it is sent again."""
        try:
            return None if argument is None else plain_json(dict(argument))
        except Exception as error:  # noqa: BLE001  # the code of its values may raise anything
            words = text_of(error)
        # Behind the block: an error raised inside `except` would drag the first one along as its context.
        raise self._invalid((name, f"cannot be sent as JSON: {self._row.target.redactor.text(words)}"))

    async def _call(self, request: Request[_T]) -> _T:
        """Check the timeout and make the call."""
        self._check(timeout_problems({"timeout": request.timeout}))
        return await call(self._row, request, self._supervisor.settings.wait_timeout)
