"""How the calls to one server ended so far."""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.frozen
class CallCounts:
    """How the calls to one server ended so far."""

    done: int = 0
    """Calls that returned a result."""
    failed: int = 0
    """Calls that ended with an error, a timeout or a cancellation."""
    tool_errors: int = 0
    """Calls in `done` whose result has `is_error` set: the tool itself failed."""

    def after(self, *, succeeded: bool, tool_error: bool) -> CallCounts:
        """Return the counts after one more call."""
        return CallCounts(self.done + succeeded, self.failed + (not succeeded), self.tool_errors + tool_error)
