"""Cancellations that nobody requested: user code that awaits its own cancelled task. They exist only on asyncio."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancelled_inside(*_: object) -> Any:
    """Await another task that was cancelled, as user code may do carelessly: nobody has cancelled this one."""
    task = asyncio.ensure_future(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    await task
