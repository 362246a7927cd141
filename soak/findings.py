"""What a run has shown: handed from the process of the run to the one that writes the report."""

from __future__ import annotations

from collections import Counter

import attrs

from soak.measure import Sample


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
    restarts: int
    """Connections after the first, of all servers that were there at the end."""
    logged: Counter[str]
    """What the pool logged, by level."""
    notifications: int
    """Notifications that callbacks were given."""
    figures: dict[str, float]
    """Single figures, by their names."""
    samples: list[Sample]
    violations: list[str]
    violations_in_all: int = 0
