"""What a run has shown: handed from the process of the run to the one that writes the report."""

from __future__ import annotations

from collections import Counter

import attrs

from soak.bounds import VIOLATIONS_SHOWN
from soak.measure import Sample


@attrs.define
class Violations:
    """What must not be, counted by its kind, and the first of each in full."""

    counts: Counter[str] = attrs.Factory(Counter)
    texts: list[str] = attrs.Factory(list)

    def add(self, kind: str, text: str) -> None:
        """Note one."""
        self.counts[kind] += 1
        if self.counts[kind] <= VIOLATIONS_SHOWN:
            self.texts.append(f"{kind}: {text}")


@attrs.define(kw_only=True)
class Findings:
    """What a run has shown."""

    backend: str
    servers: dict[str, int]
    """How many there were, by wire."""
    seconds: float
    faults: Counter[str]
    ends: Counter[str]
    """How calls ended."""
    blocks: Counter[str]
    """How the blocks of further pools were left."""
    ledgers: dict[str, int] = attrs.Factory(dict)
    """What came out of comparing the journal with the ledgers."""
    logged: Counter[str] = attrs.Factory(Counter)
    """What the pool logged, by level."""
    figures: dict[str, float]
    """Single figures, by their names."""
    samples: list[Sample]
    violations: Violations
