"""Calls, each with a ticket: how one is made, timed, recorded and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import anyio
import attrs
from mcp import MCPError
from mcp_types import CallToolResult, TextContent

from mcp_pool import DEFAULT, MCPPool
from mcp_pool.config.settings import Seconds
from soak.bounds import CALL_BOUND, CANCEL_BOUND, ROOM
from soak.ends import NO_SESSION, claim_of, complaint
from soak.findings import Violations
from soak.fleet import Target
from soak.journal import Entry, Journal


@attrs.frozen(kw_only=True)
class Call:
    """What to call."""

    tool: str
    arguments: dict[str, Any] = attrs.Factory(dict)
    seconds: float = 0.0
    """How long the tool takes if nothing is wrong."""
    timeout: Seconds = DEFAULT
    cancel_after: float | None = None
    """When its caller is cancelled; None for never."""
    watched: bool = False
    """Whether its caller wants progress reports."""
    on_progress: Callable[[], Awaitable[object]] | None = None
    """What its progress function does each time, besides counting."""
    any_answer: bool = False
    """Whether its result, if there is one, does not contain the ticket."""
    may_fail: bool = False
    """Whether it fails even on a server without faults."""

    @property
    def bound(self) -> float:
        """How long it may take."""
        if self.cancel_after is not None:
            return self.cancel_after + CANCEL_BOUND
        return self.timeout + ROOM if isinstance(self.timeout, float) else CALL_BOUND


@attrs.define(eq=False)
class Made:
    """A call that was made, and how it ended."""

    call: Call
    target: Target
    ticket: str
    other_pool: bool
    """Whether its pool may be closed at any time."""
    started: float = attrs.field(factory=anyio.current_time)
    removals: int = attrs.field(init=False)
    """The `removals` of its server when the call started."""
    seconds: float = 0.0
    """How long it took."""
    outcome: CallToolResult | Exception | None = None
    """A result, an error, or None for a cancellation."""

    def __attrs_post_init__(self) -> None:
        self.removals = self.target.removals

    def __str__(self) -> str:
        return f"call {self.ticket} of {self.call.tool} on {self.target.server_id}"

    @property
    def gone(self) -> bool:
        """Whether its server, or its whole pool, may have been removed meanwhile."""
        return self.other_pool or self.target.removals != self.removals or self.removals % 2 == 1


@attrs.define(eq=False)
class Caller:
    """Makes calls, and records how they end."""

    pool: MCPPool
    journal: Journal
    violations: Violations
    ends: Counter[str] = attrs.Factory(Counter)
    """How calls ended, by kind."""
    under_way: dict[str, Made] = attrs.Factory(dict)
    """Calls that have not ended, by ticket."""
    slowest: float = 0.0
    """The longest time that a call took in addition to its tool's own time."""
    slowest_quiet: float = 0.0
    """The same on servers without faults."""
    most: int = 0
    """The most calls that were in flight at the same time."""
    progressed: int = 0
    """Progress reports that callers received."""
    _tickets: Iterator[int] = attrs.field(factory=lambda: count(1), init=False)

    async def call(self, target: Target, call: Call, pool: MCPPool | None = None) -> bool:
        """Make a call, record how it ended, and return whether it was answered.

        Args:
            target: The server.
            call: What to call.
            pool: A pool other than the usual one, which may be closed at any time.
        """
        made = Made(call, target, str(next(self._tickets)), other_pool=pool is not None)
        self.under_way[made.ticket] = made
        self.most = max(self.most, len(self.under_way))
        scope = anyio.CancelScope()
        if call.cancel_after is not None:
            scope.deadline = made.started + call.cancel_after
        try:
            with scope:
                made.outcome = await self._answer(pool or self.pool, made)
        except Exception as raised:
            made.outcome = raised
        finally:  # a call that is cancelled from outside may have been hanging for a while
            del self.under_way[made.ticket]
            made.seconds = anyio.current_time() - made.started
            self._note(made)
            self._time(made)
            self._judge(made)
        return isinstance(made.outcome, CallToolResult)

    async def _answer(self, pool: MCPPool, made: Made) -> CallToolResult:
        async def note(progress: float, total: float | None, message: str | None) -> None:
            self.progressed += 1
            if made.call.on_progress is not None:
                await made.call.on_progress()

        return await pool.server(made.target.server_id).call_tool(
            made.call.tool,
            {"ticket": made.ticket, **made.call.arguments},
            timeout=made.call.timeout,
            progress=note if made.call.watched or made.call.on_progress else None,
        )

    def _note(self, made: Made) -> None:
        """Count the end of a call, and record it."""
        claim = claim_of(made.outcome)
        match made.outcome:
            case None:
                kind = end = "cancelled by its caller"
            case CallToolResult():
                kind = end = "answered"
            case _:
                name = type(made.outcome).__name__
                kind, end = f"{name}, {claim}", f"{name}: {made.outcome}"
        self.ends[kind] += 1
        self.journal.note(
            Entry(
                ticket=made.ticket,
                ledger=made.target.ledger,
                server_id=made.target.server_id,
                tool=made.call.tool,
                allowed=made.target.runs_allowed(made.call.tool),
                claim=claim,
                seconds=made.seconds,
                end=end,
            )
        )

    def _time(self, made: Made) -> None:
        """Add a violation if a call took too long."""
        if made.seconds > made.call.bound:
            words = f"{made} took {made.seconds:.1f} s; the limit is {made.call.bound:.1f} s"
            self.violations.add("took too long", words)
        if made.outcome is None:
            return
        beyond = made.seconds - made.call.seconds
        self.slowest = max(self.slowest, beyond)
        if made.target.quiet and not made.call.may_fail:
            self.slowest_quiet = max(self.slowest_quiet, beyond)
            if beyond > ROOM:
                self.violations.add("delayed on a server without faults", f"{made} took {made.seconds:.1f} s")

    def _judge(self, made: Made) -> None:
        """Add a violation if a call ended in a wrong way."""
        error = made.outcome
        if isinstance(error, CallToolResult):
            if not made.call.any_answer and _first_word(error) != made.ticket:
                self.violations.add("wrong answer", f"{made}: {str(error)[:200]}")
            return
        if error is None:
            return
        words = f"{made}: {type(error).__name__}: {error}"
        if isinstance(error, MCPError):
            refused = made.call.tool == "refuse" and f"refused {made.ticket}" in str(error)
            rejected = made.target.raw and not made.target.quiet and NO_SESSION in str(error)
            if not refused and not rejected:
                self.violations.add("failed with an error that is not the pool's", words)
            return
        if wrong := complaint(error, made.target.server_id, gone=made.gone):
            self.violations.add("failed without a cause", f"{words}: {wrong}")
        if made.target.quiet and not made.call.may_fail:
            self.violations.add("failed on a server without faults", words)


def _first_word(result: CallToolResult) -> str:
    first = result.content[0] if result.content else None
    return first.text.partition(" ")[0] if isinstance(first, TextContent) else ""
