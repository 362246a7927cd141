"""What stands between the SDK and the user's callbacks.

The SDK starts a task for each message and lets it wait for the function. Here, notifications only go into a bounded
queue, and one task calls the function, in order; requests are bounded in number, and what a function raises stays here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from types import UnionType
from typing import Any, Final, TypeVar, final

import attrs
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

_T = TypeVar("_T")

MAX_QUEUED: Final = 1024
"""Notifications that wait for a slow function; the oldest are dropped, and the log says how many."""
MAX_REQUESTS: Final = 32
"""Requests of one server that are answered at once; further ones get an error."""


@final
@attrs.define(eq=False, repr=False)
class CallbackDispatcher:
    """The callbacks of one connection."""

    server_id: str
    """For the log."""
    callbacks: ClientCallbacks
    """The functions."""
    _calls: CallsInFlight
    """The calls whose silence does not count while a model or a person is asked."""
    _serving: int = attrs.field(default=0, init=False)
    """Requests of the server that are being answered."""
    _queue: deque[Callable[[], Awaitable[None]]] = attrs.field(factory=deque[Callable[[], Awaitable[None]]], init=False)
    _changed: Changed = attrs.field(factory=Changed, init=False)
    _dropped: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: {} notifications were dropped because a callback is too slow"),
        init=False,
    )
    _refused: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: {} requests were refused because too many are being answered"),
        init=False,
    )
    _failed: LogThrottle = attrs.field(
        factory=lambda: LogThrottle("Server {!r}: a callback failed {} times: {}"), init=False
    )

    def client_arguments(self) -> dict[str, Any]:
        """Return what `mcp.Client` is given: no argument for a missing callback, or it would announce it to servers."""
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
        if functions.message is not None:
            arguments["message_handler"] = partial(self._enqueue, functions.message)
        return arguments

    @property
    def takes_notifications(self) -> bool:
        """Whether there is anybody to deliver notifications to."""
        return self.callbacks.logging is not None or self.callbacks.message is not None

    async def run(self) -> None:
        """Deliver notifications, one at a time and in order, until cancelled."""
        try:
            while True:
                await self._changed.until(lambda: self._queue)
                try:
                    await contained(self._queue.popleft())
                except Exception as error:  # noqa: BLE001  # a callback's failure is its own
                    self._failed.count(self.server_id, f"it raised {type(error).__name__}")
        finally:
            self._dropped.flush(self.server_id)

    async def _enqueue(self, function: Callable[[_T], Awaitable[None]], item: _T) -> None:
        if len(self._queue) == MAX_QUEUED:
            self._queue.popleft()
            self._dropped.count(self.server_id)
        self._queue.append(partial(function, item))
        self._changed.notify()

    async def _serve_paused(
        self, function: Callable[..., Awaitable[Any]], kind: type | UnionType, *arguments: Any
    ) -> Any:
        """Answer a request that takes as long as a model or a person takes."""
        with self._calls.paused():
            return await self._serve(function, kind, *arguments)

    async def _serve(self, function: Callable[..., Awaitable[Any]], kind: type | UnionType, *arguments: Any) -> Any:
        """Answer a request by a result of the kind, or by an error."""
        if self._serving >= MAX_REQUESTS:
            self._refused.count(self.server_id)
            return ErrorData(code=INTERNAL_ERROR, message=f"more than {MAX_REQUESTS} requests at once")
        self._serving += 1
        try:
            # In a task of its own: on the modern protocol the SDK calls it in the task of the caller.
            answer = await contained_in_task(function, *arguments)
        except Exception as error:  # noqa: BLE001  # its text is not for the server
            failure = f"it raised {type(error).__name__}"
        else:
            if isinstance(answer, kind | ErrorData):
                return answer
            # The SDK would take it for a fault of the server.
            failure = f"it returned a {type(answer).__name__}"
        finally:
            self._serving -= 1
        self._failed.count(self.server_id, failure)
        return ErrorData(code=INTERNAL_ERROR, message="the client could not answer")
