"""Runs the user's callbacks for the SDK.

The SDK starts a task for each message, which waits for the callback, so a slow callback would pile up tasks. Here,
notifications go into a bounded queue, and one task delivers them in order. The number of concurrent requests is
limited, and an exception raised by a callback goes no further.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from types import UnionType
from typing import Any, Final, TypeVar, final

import anyio
import attrs
from mcp.client.session import IncomingMessage
from mcp_types import (
    INTERNAL_ERROR,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    ErrorData,
    ListRootsResult,
)

from mcp_pool._shared.changed import Changed
from mcp_pool._shared.guard import contained, contained_in_task
from mcp_pool._shared.log_throttle import LogThrottle
from mcp_pool.config.callbacks import ClientCallbacks
from mcp_pool.connection.calls_in_flight import CallsInFlight
from mcp_pool.connection.list_changes import ListChanges, ResourceUpdates

_T = TypeVar("_T")

MAX_QUEUED: Final = 1024
"""How many notifications wait for a slow callback. Beyond that, the oldest are dropped, and their number is logged."""
MAX_REQUESTS: Final = 32
"""How many requests of one server are served at once; further ones get an error."""


@final
@attrs.define(eq=False, repr=False)
class CallbackDispatcher:
    """The callbacks of one connection."""

    server_id: str
    """For the log."""
    callbacks: ClientCallbacks
    """The user's functions."""
    _calls: CallsInFlight
    """The calls whose deadlines are paused while a model or a person answers."""
    changes: ListChanges = attrs.field(factory=ListChanges, init=False)
    """What the server says has changed."""
    updates: ResourceUpdates = attrs.field(factory=ResourceUpdates, init=False)
    """Resources that it says have been updated."""
    _serving: int = attrs.field(default=0, init=False)
    """How many requests are being served."""
    _queue: deque[Callable[[], Awaitable[None]]] = attrs.field(factory=deque[Callable[[], Awaitable[None]]], init=False)
    _changed: Changed = attrs.field(factory=Changed, init=False)
    _dropped: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: notifications dropped because a callback is too slow: {}"),
        init=False,
    )
    _rejected: LogThrottle = attrs.field(
        factory=lambda: LogThrottle(f"Server {{!r}}: requests rejected because {MAX_REQUESTS} are being served: {{}}"),
        init=False,
    )
    _failed: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: callback failures: {}; the latest {}"), init=False
    )

    def client_arguments(self) -> dict[str, Any]:
        """Return the callbacks as arguments of `mcp.Client`, which announces each of them to the server."""
        functions, arguments = self.callbacks, dict[str, Any]()
        if functions.sampling is not None:
            results = CreateMessageResult | CreateMessageResultWithTools
            arguments["sampling_callback"] = partial(self._serve_paused, functions.sampling, results)
        if functions.elicitation is not None:
            arguments["elicitation_callback"] = partial(self._serve_paused, functions.elicitation, ElicitResult)
        if functions.list_roots is not None:
            arguments["list_roots_callback"] = partial(self._serve, functions.list_roots, ListRootsResult)
        if functions.logging is not None:
            arguments["logging_callback"] = partial(self._enqueue, functions.logging)
        arguments["message_handler"] = self._on_message
        return arguments

    @property
    def takes_notifications(self) -> bool:
        """Whether there is a callback for notifications."""
        return self.callbacks.logging is not None or self.callbacks.message is not None

    async def run(self) -> None:
        """Deliver notifications, one at a time and in order, until cancelled."""
        try:
            while True:
                await self._changed.until(lambda: self._queue)
                try:
                    await contained(self._queue.popleft())
                except Exception as error:  # noqa: BLE001  # a callback's failure is its own
                    self._failed.count(self.server_id, f"raised {type(error).__name__}")
        finally:
            self._dropped.flush(self.server_id)

    async def _on_message(self, message: IncomingMessage) -> None:
        self.changes.note_message(message)
        self.updates.note_message(message)
        if self.callbacks.message is not None:
            await self._enqueue(self.callbacks.message, message)
        await anyio.lowlevel.checkpoint()  # a flood of notifications must not keep other tasks from running

    async def _enqueue(self, function: Callable[[_T], Awaitable[None]], item: _T) -> None:
        if len(self._queue) == MAX_QUEUED:
            self._queue.popleft()
            self._dropped.count(self.server_id)
        self._queue.append(partial(function, item))
        self._changed.notify()

    async def _serve_paused(
        self, function: Callable[..., Awaitable[Any]], kind: type | UnionType, *arguments: Any
    ) -> Any:
        """Serve a request that a model or a person answers, with the deadlines of calls paused."""
        with self._calls.paused():
            return await self._serve(function, kind, *arguments)

    async def _serve(self, function: Callable[..., Awaitable[Any]], kind: type | UnionType, *arguments: Any) -> Any:
        """Serve a request: return a result of the given kind, or an error."""
        if self._serving >= MAX_REQUESTS:
            self._rejected.count(self.server_id)
            return ErrorData(code=INTERNAL_ERROR, message=f"more than {MAX_REQUESTS} requests at once")
        self._serving += 1
        try:
            # In its own task: on the modern protocol, the SDK runs this in the task of the pool's caller.
            answer = await contained_in_task(function, *arguments)
        except Exception as error:  # noqa: BLE001  # its text must not reach the server
            failure = f"raised {type(error).__name__}"
        else:
            if isinstance(answer, kind | ErrorData):
                return answer
            # The SDK would treat this as a failure of the server.
            failure = f"returned a value of type {type(answer).__name__}"
        finally:
            self._serving -= 1
        self._failed.count(self.server_id, failure)
        return ErrorData(code=INTERNAL_ERROR, message="the client could not answer")
