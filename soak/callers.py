"""Calls with a ticket each: what they ask, what they may end in, and the tasks that make them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import anyio
import attrs
from mcp import MCPError
from mcp_types import CallToolResult, TextContent

from mcp_pool import DEFAULT, MCPPool
from mcp_pool.settings import Seconds
from soak.bounds import CALL_BOUND, CALLERS, CANCEL_BOUND, LONGEST_WORK, MAX_MESSAGE_SIZE, PAUSE, ROOM
from soak.ends import claim_of, complaint
from soak.fleet import Target
from soak.journal import Claim, Entry, Journal, Violations


@attrs.frozen(kw_only=True)
class Call:
    """What is to be called."""

    tool: str
    arguments: dict[str, Any] = attrs.Factory(dict)
    seconds: float = 0.0
    """How long the tool takes when nothing is wrong."""
    timeout: Seconds = DEFAULT
    cancel_after: float | None = None
    """When its caller is cancelled; None: never."""
    watched: bool = False
    """Whether its caller wants to hear of progress."""
    any_answer: bool = False
    """Whether its answer, if there is one, does not bear the ticket."""
    may_fail: bool = False
    """Whether it fails even on a server that nobody harms."""


@attrs.define(eq=False)
class Caller:
    """Makes calls, and notes how they end."""

    pool: MCPPool
    journal: Journal
    violations: Violations
    ends: Counter[str] = attrs.Factory(Counter)
    """How calls ended, by the kind of the end."""
    under_way: dict[str, str] = attrs.Factory(dict)
    """Calls that have not ended, in words, by their tickets."""
    slowest: float = 0.0
    """The longest time that a call took beyond what its tool took."""
    slowest_quiet: float = 0.0
    """The same on servers that nobody harms."""
    most: int = 0
    """The most calls that were under way at one time."""
    progressed: int = 0
    """Reports of progress that callers heard of."""
    _tickets: Iterator[int] = attrs.field(factory=lambda: count(1), init=False)

    async def call(self, target: Target, call: Call, pool: MCPPool | None = None) -> bool:
        """Make a call, note how it ended, and tell whether it brought the right answer.

        Args:
            target: The server.
            call: What to call.
            pool: Another pool than usual, which may be left at any time.
        """
        ticket = str(next(self._tickets))
        removals, started = target.removals, anyio.current_time()
        self.under_way[ticket] = what = f"call {ticket} of {call.tool} on {target.server_id}"
        self.most = max(self.most, len(self.under_way))
        result: CallToolResult | None = None
        error: Exception | None = None
        scope = anyio.CancelScope()
        if call.cancel_after is not None:
            scope.deadline = started + call.cancel_after
        try:
            with scope:
                result = await self._made(pool or self.pool, target, call, ticket)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is judged
            error = raised
        except anyio.get_cancelled_exc_class():
            self._note(target, call, ticket, started, None)
            raise
        self._note(target, call, ticket, started, result or error)
        gone = target.removals != removals or bool(removals % 2) or pool is not None
        self._judge(target, call, what, result, error, gone=gone)
        self._time(target, call, what, anyio.current_time() - started, cancelled=scope.cancelled_caught)
        return result is not None

    async def _made(self, pool: MCPPool, target: Target, call: Call, ticket: str) -> CallToolResult:
        async def note(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
            self.progressed += 1

        return await pool.server(target.server_id).call_tool(
            call.tool,
            {"ticket": ticket, **call.arguments},
            timeout=call.timeout,
            progress=note if call.watched else None,
        )

    def _note(
        self, target: Target, call: Call, ticket: str, started: float, outcome: CallToolResult | Exception | None
    ) -> None:
        """Write down how a call ended: with a result, with an error, or, with neither, by cancellation."""
        del self.under_way[ticket]
        claim: Claim
        match outcome:
            case None:
                kind, end, claim = "cancelled by its caller", "cancelled by its caller", "may have run"
            case CallToolResult():
                kind, end, claim = "answered", "answered", "ran"
            case MCPError():
                kind, end, claim = "MCPError, the server's own", f"MCPError: {outcome}", "ran"
            case _:
                claim, name = claim_of(outcome), type(outcome).__name__
                kind, end = f"{name}, {claim}", f"{name}: {outcome}"
        self.ends[kind] += 1
        allowed, seconds = target.runs_allowed(call.tool), anyio.current_time() - started
        self.journal.note(Entry(ticket, target.ledger, target.server_id, call.tool, allowed, claim, seconds, end))

    def _judge(
        self,
        target: Target,
        call: Call,
        what: str,
        result: CallToolResult | None,
        error: Exception | None,
        *,
        gone: bool,
    ) -> None:
        """Note what is wrong with how a call ended."""
        ticket = what.split()[1]
        if result is not None and not call.any_answer and _first_word(result) != ticket:
            self.violations.add("answered wrongly", f"{what}: {str(result)[:200]}")
        if error is None:
            return
        if isinstance(error, MCPError):
            if call.tool != "refuse" or f"refused {ticket}" not in str(error):
                self.violations.add("failed with an error that is not the pool's", f"{what}: {error!r}")
        elif wrong := complaint(error, target.server_id, gone=gone):
            self.violations.add("failed without a cause", f"{what}: {wrong}: {type(error).__name__}: {error}")
        if target.quiet and not isinstance(error, MCPError) and not call.may_fail:
            words = f"{what}: {type(error).__name__}: {error}"
            self.violations.add("failed on a server that nobody harmed", words)

    def _time(self, target: Target, call: Call, what: str, seconds: float, *, cancelled: bool) -> None:
        """Note when a call took too long."""
        bound = CALL_BOUND
        if call.cancel_after is not None:
            bound = call.cancel_after + CANCEL_BOUND
        elif isinstance(call.timeout, float):
            bound = call.timeout + ROOM
        if seconds > bound:
            self.violations.add("took too long", f"{what} took {seconds:.1f} s, and may take {bound:.1f} s")
        beyond = seconds - call.seconds
        if not cancelled:
            self.slowest = max(self.slowest, beyond)
        if target.quiet and not cancelled and not call.may_fail:
            self.slowest_quiet = max(self.slowest_quiet, beyond)
            if beyond > ROOM:
                self.violations.add("delayed on a server that nobody harmed", f"{what} took {seconds:.1f} s")


def _first_word(result: CallToolResult) -> str:
    first = result.content[0] if result.content else None
    return first.text.partition(" ")[0] if isinstance(first, TextContent) else ""


def chosen(chance: random.Random, target: Target) -> Call:
    """Choose a call of a task. Weights make most calls short ones that succeed where nothing is wrong."""
    seconds = round(LONGEST_WORK * chance.random() ** 2, 3)
    working = {"seconds": seconds}
    choices: list[tuple[int, Callable[[], Call]]] = [
        (30, lambda: Call(tool="work")),
        (20, lambda: Call(tool="work", arguments=working, seconds=seconds)),
        (20, lambda: Call(tool="safe", arguments=working, seconds=seconds)),
        (8, lambda: Call(tool="work", arguments={**working, "steps": 5}, seconds=seconds, watched=True)),
        (8, lambda: Call(tool="work", arguments=working, seconds=seconds, cancel_after=chance.random())),
        (5, lambda: Call(tool="refuse")),
        (5, lambda: Call(tool="bulky", arguments={"size": chance.randrange(MAX_MESSAGE_SIZE // 4)})),
        (3, lambda: Call(tool="work", arguments=working, seconds=seconds, timeout=chance.random(), may_fail=True)),
        (1, lambda: Call(tool="mute", cancel_after=chance.random(), may_fail=True)),
    ]
    if not target.quiet:
        # The progress keeps it going beyond `call_timeout`.
        long = 2.5 * LONGEST_WORK
        choices.append((2, lambda: Call(tool="work", arguments={"seconds": long, "steps": 5}, seconds=long)))
        choices.append((2, lambda: Call(tool="mute", may_fail=True)))
    weights = [weight for weight, _ in choices]
    return chance.choices(choices, weights)[0][1]()


async def calling(caller: Caller, targets: list[Target], seed: str, until: Callable[[], bool]) -> None:
    """Call one server after another, until told to end."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    while not until():
        target = chance.choice(targets)
        await caller.call(target, chosen(chance, target))
        await anyio.sleep(chance.expovariate(1 / PAUSE))


async def crowd(caller: Caller, targets: list[Target], seed: int, until: Callable[[], bool]) -> None:
    """Let many tasks call, and return when the last of them has ended."""
    async with anyio.create_task_group() as group:
        for number in range(CALLERS):
            group.start_soon(calling, caller, targets, f"{seed}-{number}", until)
