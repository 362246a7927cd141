"""Functions of the user's that servers call back, and what stands between them and the SDK.

The SDK starts a task for each message and lets it wait for the function. Here, notifications only go into a bounded
queue, and one task calls the function, in order; requests are bounded in number, and what a function raises stays here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from types import UnionType
from typing import Any, Final, TypeAlias, TypeVar, final

import anyio
import attrs
from mcp.client.session import ElicitationFnT, ListRootsFnT, LoggingFnT, MessageHandlerFnT, SamplingFnT
from mcp_types import (
    INTERNAL_ERROR,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    ErrorData,
    ListRootsResult,
)

from mcp_pool.guard import contained, contained_in_task
from mcp_pool.troubles import Trouble

_T = TypeVar("_T")

QUEUE: Final = 1024
"""Notifications that wait for a slow function; the oldest are dropped, and the log says how many."""
REQUESTS: Final = 32
"""Requests of one server that are answered at once; further ones get an error."""


@final
@attrs.frozen(kw_only=True)
class ClientCallbacks:
    """What a server may call back. Each has the signature that `mcp.Client` gives it; None: the server is told no.

    What a function raises is logged and harms nothing but the request it serves; the server does not see its text.
    """

    sampling: SamplingFnT | None = None
    """Asks a model. The clocks of this server's calls stand still meanwhile."""
    elicitation: ElicitationFnT | None = None
    """Asks a person. The clocks of this server's calls stand still meanwhile."""
    list_roots: ListRootsFnT | None = None
    """Lists the roots that the server may look at."""
    logging: LoggingFnT | None = None
    """Takes a log message of the server. On the modern protocol none comes without `log_level` in `client_options`."""
    message: MessageHandlerFnT | None = None
    """Takes any notification of the server, and errors of the transport."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with these values, as pairs of a field's name and a sentence; usually nothing."""
        for field in attrs.fields(ClientCallbacks):
            value = getattr(self, field.name)
            if value is not None and not callable(value):
                yield field.name, f"must be an async function, not a {type(value).__name__}"

    def over(self, wider: ClientCallbacks) -> ClientCallbacks:
        """Return these, and the wider ones where there is none here."""
        return ClientCallbacks(
            sampling=self.sampling or wider.sampling,
            elicitation=self.elicitation or wider.elicitation,
            list_roots=self.list_roots or wider.list_roots,
            logging=self.logging or wider.logging,
            message=self.message or wider.message,
        )


CallbacksFor: TypeAlias = Callable[[str], ClientCallbacks | None]
"""Returns the callbacks of a server, by its id."""


@final
@attrs.define(eq=False, repr=False)
class CallbackDesk:
    """The callbacks of one connection."""

    server_id: str
    """For the log."""
    callbacks: ClientCallbacks
    """The functions."""
    on_ask: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    """Called when the first of several questions for a model or a person begins."""
    on_answer: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    """Called when the last of them has ended."""
    asking: int = attrs.field(default=0, init=False)
    """Questions for a model or a person that wait for their answer."""
    _serving: int = attrs.field(default=0, init=False)
    """Requests of the server that are being answered."""
    _queue: deque[Callable[[], Awaitable[None]]] = attrs.field(
        factory=deque[Callable[[], Awaitable[None]]], init=False, repr=False
    )
    _dropping: Trouble = attrs.field(
        factory=lambda: Trouble("Server {!r}: {} notifications were dropped, as a callback is too slow"), init=False
    )
    _refusing: Trouble = attrs.field(
        factory=lambda: Trouble("Server {!r}: {} requests were refused, as too many are being answered"), init=False
    )
    _failing: Trouble = attrs.field(factory=lambda: Trouble("Server {!r}: a callback failed {} times: {}"), init=False)
    _news: anyio.Event = attrs.field(factory=anyio.Event, init=False, repr=False)

    def client_arguments(self) -> dict[str, Any]:
        """Return what `mcp.Client` is to be given: nothing for what is not there, or it would promise it to servers."""
        own, arguments = self.callbacks, dict[str, Any]()
        if own.sampling is not None:
            results = CreateMessageResult | CreateMessageResultWithTools
            arguments["sampling_callback"] = partial(self._ask, own.sampling, results)
        if own.elicitation is not None:
            arguments["elicitation_callback"] = partial(self._ask, own.elicitation, ElicitResult)
        if own.list_roots is not None:
            arguments["list_roots_callback"] = partial(self._serve, own.list_roots, ListRootsResult)
        if own.logging is not None:
            arguments["logging_callback"] = partial(self._enqueue, own.logging)
        if own.message is not None:
            arguments["message_handler"] = partial(self._enqueue, own.message)
        return arguments

    @property
    def takes_notifications(self) -> bool:
        """Whether there is anybody to deliver notifications to."""
        return self.callbacks.logging is not None or self.callbacks.message is not None

    async def run(self) -> None:
        """Deliver notifications, one at a time and in order, for ever."""
        try:
            while True:
                while not self._queue:
                    self._news = anyio.Event()
                    await self._news.wait()
                try:
                    await contained(self._queue.popleft())
                except Exception as error:  # noqa: BLE001  # its troubles are its own
                    self._failing.note(self.server_id, f"it raised {type(error).__name__}")
        finally:
            self._dropping.tell(self.server_id)

    async def _enqueue(self, function: Callable[[_T], Awaitable[None]], item: _T) -> None:
        if len(self._queue) == QUEUE:
            self._queue.popleft()
            self._dropping.note(self.server_id)
        self._queue.append(partial(function, item))
        self._news.set()

    async def _ask(self, function: Callable[..., Awaitable[Any]], kind: type | UnionType, *arguments: Any) -> Any:
        """Answer a request that takes as long as a model or a person takes."""
        self.asking += 1
        if self.asking == 1 and self.on_ask is not None:
            self.on_ask()
        try:
            return await self._serve(function, kind, *arguments)
        finally:
            self.asking -= 1
            if not self.asking and self.on_answer is not None:
                self.on_answer()

    async def _serve(self, function: Callable[..., Awaitable[Any]], kind: type | UnionType, *arguments: Any) -> Any:
        """Answer a request by a result of the kind, or by an error."""
        if self._serving >= REQUESTS:
            self._refusing.note(self.server_id)
            return ErrorData(code=INTERNAL_ERROR, message=f"more than {REQUESTS} requests at once")
        self._serving += 1
        try:
            # In a task of its own: on the modern protocol the SDK calls it in the task of the caller.
            answer = await contained_in_task(function, *arguments)
        except Exception as error:  # noqa: BLE001  # its text is not for the server
            trouble = f"it raised {type(error).__name__}"
        else:
            if isinstance(answer, kind | ErrorData):
                return answer
            # The SDK would take it for a fault of the server.
            trouble = f"it returned a {type(answer).__name__}"
        finally:
            self._serving -= 1
        self._failing.note(self.server_id, trouble)
        return ErrorData(code=INTERNAL_ERROR, message="the client could not answer")
