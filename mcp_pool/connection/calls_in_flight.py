"""The calls that run on one connection, and their deadlines."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import final

import anyio
import attrs

from mcp_pool._shared.changed import Changed
from mcp_pool.connection.deadline_timer import DeadlineTimer
from mcp_pool.transports.channel import CallRecord


@final
@attrs.define(eq=False, repr=False)
class CallDeadline:
    """Sets the deadline of one call's scope."""

    timer: DeadlineTimer
    """Cancels the scope when the deadline has passed."""
    scope: anyio.CancelScope
    """The call's scope."""
    silence: float | None
    """Seconds without progress after which the call times out; None: no limit."""
    total: float | None
    """Seconds for the whole call; None: no limit."""
    started_at: float
    """When the call started, on the event loop's clock: in the past if the call is sent again."""
    explicit: bool
    """Whether `total` was given with the call, and includes the wait for the server."""
    _ends_at: float = attrs.field(init=False)
    _silent_at: float = attrs.field(default=math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self._ends_at = math.inf if self.total is None else self.started_at + self.total
        self.restart()

    def restart(self) -> None:
        """Measure the time without progress from now on."""
        self._silent_at = math.inf if self.silence is None else anyio.current_time() + self.silence
        self.timer.set(self.scope, self.at)

    def pause(self) -> None:
        """Ignore the time without progress until `restart`; the limit for the whole call still applies."""
        self._silent_at = math.inf
        self.timer.set(self.scope, self.at)

    @property
    def at(self) -> float:
        """The deadline, on the event loop's clock."""
        return min(self._ends_at, self._silent_at)

    def reason(self) -> str:
        """Return which limit was exceeded, as a phrase that follows the call."""
        if self.explicit:
            return f"was not answered within timeout={self.total} s"
        if anyio.current_time() >= self._ends_at:
            return f"was not answered within max_call_time={self.total} s"
        return f"received neither an answer nor progress for call_timeout={self.silence} s"


@final
@attrs.define(eq=False, repr=False)
class CallsInFlight:
    """The calls of one connection."""

    timer: DeadlineTimer
    """Holds their deadlines."""
    _calls: dict[CallRecord, CallDeadline] = attrs.field(factory=dict[CallRecord, CallDeadline], init=False)
    _pauses: int = attrs.field(default=0, init=False)
    """How many sampling and elicitation callbacks are running for the server."""
    _changed: Changed = attrs.field(factory=Changed, init=False)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def running(self, record: CallRecord, deadline: CallDeadline) -> Generator[None]:
        """Register a call while it runs."""
        self._calls[record] = deadline
        if self._pauses:
            deadline.pause()
        try:
            yield
        finally:
            record.channel.forget(record)
            self.timer.forget(record.scope)
            del self._calls[record]
            if not self._calls:
                self._changed.notify()

    @contextmanager
    def paused(self) -> Generator[None]:
        """Pause the deadlines of calls while a model or a person answers a request from the server."""
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
        """Restart the deadline of a call on progress, unless deadlines are paused."""
        if not self._pauses:
            deadline.restart()

    def cancel(self) -> None:
        """Cancel the calls that have not been answered."""
        for record in self._calls:
            if not record.is_answered:  # its caller gets the answer, although the connection has ended
                record.scope.cancel()

    async def wait_idle(self) -> None:
        """Wait until no call runs."""
        await self._changed.until(lambda: not self._calls)
