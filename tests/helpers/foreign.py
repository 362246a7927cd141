"""Cancellations that nobody asked for: user code that awaits a cancelled task of its own. Only asyncio has such a thing."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancelled_inside(*_: object) -> Any:
    """Await a task of its own that was cancelled, as user code may without a thought: nobody has cancelled this one."""
    task = asyncio.ensure_future(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    await task
