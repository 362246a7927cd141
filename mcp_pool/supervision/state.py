"""The states of a server, and the legal transitions between them.

::

    Connecting ─→ Ready ─→ BackingOff ─→ Connecting        and from each of these to Closing, which is final
        │           │  └─→ Failed ─────→ Connecting
        │           └────→ Connecting    (a restart was requested)
        ├─→ BackingOff
        └─→ Failed

`BackingOff` and `Failed` may be followed by themselves, with an error that tells more of the same loss.

States are plain data: they hold no connection and no task.
"""

from __future__ import annotations

import enum
from time import time
from typing import ClassVar, Final, TypeAlias, final

import attrs

from mcp_pool._shared.docs import with_inherited_attributes
from mcp_pool.errors import ConnectError, ConnectionLost


@final
class ConnectionStatus(enum.Enum):
    """The status of a server. Details are in its state."""

    DISCONNECTED = "disconnected"
    """It was disconnected, or is being disconnected."""
    CONNECTING = "connecting"
    """A connection attempt is running."""
    CONNECTED = "connected"
    """It is connected."""
    ERROR = "error"
    """Its connection failed: it waits for the next attempt, or automatic reconnects have stopped."""


@attrs.frozen(kw_only=True, init=False, eq=False, repr=False)
class _State:
    """What all states have in common.

    Attributes:
        attempt: The number of the latest connection attempt; the first is 1.
        generation: How many connections there have been; 0 before the first.
        since: When this state began, in seconds on the event loop's clock.
        since_timestamp: When this state began, in seconds since the epoch. Ignored in comparisons.
    """

    attempt: int
    generation: int
    since: float
    since_timestamp: float = attrs.field(factory=time, eq=False)


@final
@with_inherited_attributes
@attrs.frozen(kw_only=True)
class Connecting(_State):
    """A connection attempt is running or about to start."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.CONNECTING


@final
@with_inherited_attributes
@attrs.frozen(kw_only=True)
class Ready(_State):
    """The server is connected."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.CONNECTED


@final
@with_inherited_attributes
@attrs.frozen(kw_only=True)
class Closing(_State):
    """The server is being disconnected: it takes no new calls, and those in flight may finish. This state is final."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.DISCONNECTED


@final
@with_inherited_attributes
@attrs.frozen(kw_only=True)
class BackingOff(_State):
    """The connection was lost or an attempt failed; the next attempt starts automatically.

    Attributes:
        error: What went wrong.
        next_retry_at: When the next attempt starts, in seconds on the event loop's clock.
    """

    status: ClassVar[ConnectionStatus] = ConnectionStatus.ERROR
    error: ConnectError | ConnectionLost
    next_retry_at: float

    @property
    def next_retry_timestamp(self) -> float:
        """When the next attempt begins, in seconds since the epoch."""
        return self.since_timestamp + (self.next_retry_at - self.since)


@final
@with_inherited_attributes
@attrs.frozen(kw_only=True)
class Failed(_State):
    """The connection was lost or an attempt failed, and automatic reconnects have stopped.

    Attributes:
        error: What went wrong.
    """

    status: ClassVar[ConnectionStatus] = ConnectionStatus.ERROR
    error: ConnectError | ConnectionLost


State: TypeAlias = Connecting | Ready | Closing | BackingOff | Failed

LEGAL_MOVES: Final[dict[type[State], frozenset[type[State]]]] = {
    Connecting: frozenset({Ready, BackingOff, Failed, Closing}),
    Ready: frozenset({Connecting, BackingOff, Failed, Closing}),
    BackingOff: frozenset({BackingOff, Connecting, Closing}),
    Failed: frozenset({Failed, Connecting, Closing}),
    Closing: frozenset(),
}
"""For each state, the states that may follow it."""
