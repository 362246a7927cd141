"""The states of a server, and the legal moves between them.

::

    Connecting ─→ Ready ─→ BackingOff ─→ Connecting        and from each of these to Closing, which ends
        │           │  └─→ Parked ─────→ Connecting
        │           └────→ Connecting    (a restart was asked for)
        ├─→ BackingOff
        └─→ Parked
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final, TypeAlias, final

import attrs

from mcp_pool.connection import Connection
from mcp_pool.errors import ConnectError, ConnectionLost


@final
class ConnectionStatus(enum.Enum):
    """How a server stands, in one word."""

    DISCONNECTED = "disconnected"
    """It was disconnected, or is being so."""
    CONNECTING = "connecting"
    """It is being dialled."""
    CONNECTED = "connected"
    """Its connection stands."""
    ERROR = "error"
    """It has no connection: it failed, and is waiting for the next dial or for a person."""


@attrs.frozen(kw_only=True)
class _State:
    attempt: int
    """The number of the latest dial; the first is 1."""
    generation: int
    """How many connections there have been; 0 before the first."""
    since: float
    """When this state began, on the event loop's clock, in seconds."""


@final
@attrs.frozen(kw_only=True)
class Connecting(_State):
    """A dial is under way, or about to begin."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.CONNECTING


@final
@attrs.frozen(kw_only=True)
class Ready(_State):
    """The connection stands."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.CONNECTED
    connection: Connection = attrs.field(repr=False)
    """The connection that stands."""


@final
@attrs.frozen(kw_only=True)
class Closing(_State):
    """The server is being disconnected: no new calls, and those in flight may finish. Nothing follows."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.DISCONNECTED
    connection: Connection | None = attrs.field(repr=False)
    """The connection that is being drained, if there was one."""


@final
@attrs.frozen(kw_only=True)
class BackingOff(_State):
    """The connection was lost or could not be made, and will be tried again by itself."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.ERROR
    error: ConnectError | ConnectionLost
    """Why."""
    retry_at: float
    """When the next dial begins, on the event loop's clock, in seconds."""


@final
@attrs.frozen(kw_only=True)
class Parked(_State):
    """The connection was lost or could not be made, and will not be tried again unless somebody asks."""

    status: ClassVar[ConnectionStatus] = ConnectionStatus.ERROR
    error: ConnectError | ConnectionLost
    """Why."""


State: TypeAlias = Connecting | Ready | Closing | BackingOff | Parked

LEGAL_MOVES: Final[dict[type[State], frozenset[type[State]]]] = {
    Connecting: frozenset({Ready, BackingOff, Parked, Closing}),
    Ready: frozenset({Connecting, BackingOff, Parked, Closing}),
    BackingOff: frozenset({Connecting, Closing}),
    Parked: frozenset({Connecting, Closing}),
    Closing: frozenset(),
}
"""From each state, the states that may follow."""
