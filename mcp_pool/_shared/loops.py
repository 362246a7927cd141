"""The event loop that something belongs to: uses of it from elsewhere are refused at once."""

from __future__ import annotations

from anyio.lowlevel import EventLoopToken, current_token


def is_current(loop: EventLoopToken) -> bool:
    """Tell whether this thread runs an event loop, and whether it is this one."""
    try:
        return current_token() == loop
    except RuntimeError:  # there is no event loop in this thread
        return False


def check_current(loop: EventLoopToken) -> None:
    """Raise `RuntimeError` in another event loop, or in a thread without one."""
    if not is_current(loop):
        raise RuntimeError(
            "This pool belongs to another event loop or thread. From another thread, call it by "
            "anyio.from_thread.run or the portal of anyio.from_thread.start_blocking_portal."
        )
