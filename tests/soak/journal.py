"""How every call ended for its caller, and whether the servers' ledgers agree.

Both are files: in memory, they would look like a leak.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final, Literal, cast

import attrs

from soak.findings import Violations

Claim = Literal["ran", "did not run", "may have run"]
"""What the caller was told about its call."""

JOURNAL: Final = "calls.tsv"


@attrs.frozen
class Entry:
    """How one call ended."""

    ticket: str
    """The ticket of the call."""
    ledger: str
    """Where its server records the call when it runs."""
    server_id: str
    tool: str
    allowed: int
    """How often it may have run."""
    claim: Claim
    """What its caller was told."""
    seconds: float
    """How long it took."""
    end: str
    """How it ended, in words."""

    def __str__(self) -> str:
        words = (
            self.ticket,
            self.ledger,
            self.server_id,
            self.tool,
            str(self.allowed),
            self.claim,
            f"{self.seconds:.2f}",
        )
        return "\t".join((*words, " ".join(self.end.split())))

    @classmethod
    def of(cls, line: str) -> Entry:
        """Parse a line."""
        ticket, ledger, server_id, tool, allowed, claim, seconds, end = line.rstrip("\n").split("\t")
        return cls(ticket, ledger, server_id, tool, int(allowed), cast("Claim", claim), float(seconds), end)


class Journal:
    """A line for each call, written when it ends."""

    def __init__(self, directory: Path) -> None:
        self.file = (directory / JOURNAL).open("w", encoding="utf-8")

    def note(self, entry: Entry) -> None:
        """Record how a call ended."""
        self.file.write(f"{entry}\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def judged(directory: Path, violations: Violations) -> dict[str, int]:
    """Compare the journal with the ledgers, add violations, and return counts for the report."""
    runs: dict[str, list[str]] = {}
    for ledger in sorted(directory.glob("*.ledger")):
        for ticket in ledger.read_text(encoding="utf-8").splitlines():
            runs.setdefault(ticket, []).append(ledger.name)
    totals = Counter({"calls in the ledgers": len(runs)})
    seen = set[str]()
    with (directory / JOURNAL).open(encoding="utf-8") as journal:
        for entry in map(Entry.of, journal):
            seen.add(entry.ticket)
            ran = runs.get(entry.ticket, [])
            if wrong := _wrong(entry, ran):
                call = f"call {entry.ticket} of {entry.tool} on {entry.server_id}"
                where = f"{len(ran)} times in ledgers {sorted(set(ran))}"
                violations.add(wrong, f"{call} is {where}; its outcome: {entry.end}")
            row = f"reported: {entry.claim}"
            if entry.claim == "may have run":
                row += "; it did" if ran else "; it did not"
            totals[row] += 1
            totals["ran twice, as allowed"] += len(ran) > 1
    for ticket in runs.keys() - seen:
        violations.add("ran without an outcome", f"call {ticket} in ledgers {runs[ticket]}")
    return dict(totals)


def _wrong(entry: Entry, ran: list[str]) -> str | None:
    """Say what is wrong with a call, if anything, given the names of the ledgers that contain it."""
    if len(ran) > entry.allowed:
        return "ran twice"
    if entry.claim == "did not run" and ran:
        return "ran, but was reported as not run"
    if entry.claim == "ran" and not ran:
        return "answered, but never ran"
    return "ran on another server" if any(name != entry.ledger for name in ran) else None
