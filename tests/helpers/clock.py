"""Backends with a virtual clock: it is stopped while anything runs, and jumps to the next deadline when nothing does.

For tests of timing without processes: a wait for the outside world would let hours pass. A module uses these backends
through its own fixture::

    @pytest.fixture(scope="module", params=virtual_backends())
    def anyio_backend(request: pytest.FixtureRequest) -> object:
        return request.param
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

import pytest
from trio.testing import MockClock

if TYPE_CHECKING:
    from collections.abc import Mapping


class JumpingSelector(selectors.DefaultSelector):
    """Advances the clock instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a virtual clock; uvloop does not support one."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def virtual_backends() -> list[Any]:
    """The backends that support a virtual clock, as parameters of the fixture `anyio_backend`."""
    options: Mapping[str, Mapping[str, Any]] = {
        "asyncio": {"loop_factory": VirtualEventLoop},
        "trio": {"clock": MockClock(autojump_threshold=0)},
    }
    return [pytest.param((name, dict(those)), id=f"{name}, virtual time") for name, those in options.items()]
