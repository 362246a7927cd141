"""How often the session of one server may be given up on mere evidence."""

from __future__ import annotations

import math
from typing import final

import attrs


@final
@attrs.define(eq=False, repr=False)
class SessionRenewalLimit:
    """When the session of one server was last given up on mere evidence: not again for a while."""

    stable_after: float
    """Seconds between two of them, at the least."""
    _latest: float = attrs.field(default=-math.inf, init=False)

    def claim(self, now: float) -> bool:
        """Tell whether a session may be given up now, and note that it is.

        Args:
            now: The time on the event loop's clock.
        """
        is_due = now - self._latest >= self.stable_after
        if is_due:
            self._latest = now
        return is_due
