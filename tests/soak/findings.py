"""The results of a run, passed from its process to the one that writes the report."""

from __future__ import annotations

from collections import Counter

import attrs

from soak.bounds import VIOLATIONS_SHOWN
from soak.measure import Sample


@attrs.define
class Violations:
    """Broken promises, counted by kind, and the first few in full."""

    counts: Counter[str] = attrs.Factory(Counter)
    texts: list[str] = attrs.Factory(list)

    def add(self, kind: str, text: str) -> None:
        """Add one."""
        self.counts[kind] += 1
        if self.counts[kind] <= VIOLATIONS_SHOWN:
            self.texts.append(f"{kind}: {text}")


@attrs.define(kw_only=True)
class Findings:
    """The results of a run."""

    backend: str
    servers: dict[str, int]
    """How many there were, by transport."""
    seconds: float
    faults: Counter[str]
    ends: Counter[str]
    """How calls ended."""
    blocks: Counter[str]
    """How the blocks of additional pools ended."""
    programs: Counter[str]
    """How programs with pools of their own ended."""
    ledgers: dict[str, int] = attrs.Factory(dict)
    """The result of comparing the journal with the ledgers."""
    logged: Counter[str] = attrs.Factory(Counter)
    """What the pool logged, by level."""
    figures: dict[str, float]
    """Single figures, by name."""
    samples: list[Sample]
    violations: Violations
