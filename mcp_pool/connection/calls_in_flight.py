"""The calls that run on one connection, with their deadlines: cut when it is lost, drained before it is closed."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import final

import anyio
import attrs

from mcp_pool._shared.changed import Changed
from mcp_pool.transports.channel import CallRecord


@final
@attrs.define(eq=False, repr=False)
class CallDeadline:
    """Keeps the deadline of one call's scope."""

    scope: anyio.CancelScope
    """The call's scope."""
    silence: float | None
    """Seconds without progress after which the call times out; None: no bound."""
    total: float | None
    """Seconds for the call as a whole; None: no bound."""
    started_at: float
    """When the call began, on the event loop's clock: earlier than now where the call is sent again."""
    explicit: bool
    """Whether `total` was given with the call; then the wait for the server is part of it."""
    _ends_at: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ends_at = math.inf if self.total is None else self.started_at + self.total
        self.restart()

    def restart(self) -> None:
        """Count silence from now on."""
        silent_at = math.inf if self.silence is None else anyio.current_time() + self.silence
        self.scope.deadline = min(self._ends_at, silent_at)

    def pause(self) -> None:
        """Let silence not count until `restart`; the bound for the whole call still does."""
        self.scope.deadline = self._ends_at

    def reason(self) -> str:
        """Say which bound was met."""
        if self.explicit:
            return f"was not answered within timeout={self.total} s"
        if anyio.current_time() >= self._ends_at:
            return f"was not answered within max_call_time={self.total} s"
        return f"received neither an answer nor progress for call_timeout={self.silence} s"


@final
@attrs.define(eq=False, repr=False)
class CallsInFlight:
    """The calls of one connection."""

    _calls: dict[CallRecord, CallDeadline] = attrs.field(factory=dict[CallRecord, CallDeadline], init=False)
    _pauses: int = attrs.field(default=0, init=False)
    """How many sampling and elicitation callbacks of the server are running."""
    _changed: Changed = attrs.field(factory=Changed, init=False)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def running(self, record: CallRecord, deadline: CallDeadline) -> Generator[None]:
        """Hold a call while it runs."""
        self._calls[record] = deadline
        if self._pauses:
            deadline.pause()
        try:
            yield
        finally:
            record.channel.forget(record)
            del self._calls[record]
            if not self._calls:
                self._changed.notify()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let silence not count while a model or a person is asked on behalf of the server."""
        self._pauses += 1
        for deadline in self._calls.values():
            deadline.pause()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                for deadline in self._calls.values():
                    deadline.restart()

    def note_progress(self, deadline: CallDeadline) -> None:
        """Note that the server reported progress of a call, unless deadlines are paused anyway."""
        if not self._pauses:
            deadline.restart()

    def cut(self) -> None:
        """Cancel the calls that cannot be answered any more."""
        for record in self._calls:
            if not record.is_answered:  # an answer that has arrived is still the answer
                record.scope.cancel()

    async def idle(self) -> None:
        """Wait until no call runs."""
        await self._changed.until(lambda: not self._calls)
