"""The reason of an error, as a person or a model may read it."""

from __future__ import annotations

from typing import Final

REASON_LIMIT: Final = 2048
"""The most bytes in a reason, in UTF-8: it may be passed to a model, and parts of it may come from a server."""


def readable(reason: str) -> str:
    """Return a reason without control characters, which may come from a server, cut to the limit."""
    if not reason.isprintable():
        reason = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    encoded = reason.encode()
    if len(encoded) <= REASON_LIMIT:
        return reason
    return encoded[: REASON_LIMIT - len("…".encode())].decode(errors="ignore") + "…"
