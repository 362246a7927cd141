"""How often the session of one server may be replaced without proof that it is lost."""

from __future__ import annotations

import math
from typing import final

import attrs


@final
@attrs.define(eq=False, repr=False)
class SessionRenewalLimit:
    """Limits how often the session of one server is replaced on suspicion alone."""

    stable_after: float
    """The minimum number of seconds between two replacements."""
    _latest: float = attrs.field(default=-math.inf, init=False)

    def claim(self, now: float) -> bool:
        """Return whether the session may be replaced now; if so, this counts as a replacement.

        Args:
            now: The time on the event loop's clock.
        """
        is_due = now - self._latest >= self.stable_after
        if is_due:
            self._latest = now
        return is_due
