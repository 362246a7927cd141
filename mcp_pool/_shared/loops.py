"""The event loop that an object belongs to: use in another loop or thread raises at once."""

from __future__ import annotations

from anyio.lowlevel import EventLoopToken, current_token


def is_current(loop: EventLoopToken) -> bool:
    """Tell whether the caller runs in this event loop."""
    try:
        return current_token() == loop
    except RuntimeError:  # no event loop runs in this thread
        return False


def check_current(loop: EventLoopToken) -> None:
    """Raise `RuntimeError` in another event loop, or in a thread without one."""
    if not is_current(loop):
        raise RuntimeError(
            "This pool belongs to another event loop or thread. To call it from another thread, use "
            "anyio.from_thread.run or the portal of anyio.from_thread.start_blocking_portal."
        )
