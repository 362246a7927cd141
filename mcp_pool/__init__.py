"""A supervisor that keeps many MCP connections alive inside one trio or asyncio program.

The map of the house, top down; arrows between modules point down only:

* `pool`: `MCPPool`, the block that users open
* `block`: body first, then connections; the errors that leave it
* `server`: `Server`, the handle on one server
* `supervisor`: the task group: one child task per server, one cancel that ends them all
* `calling`: one call, from the wait for its server to its result
* `waiting`: for the outcome of a dial, for one connection, for many
* `progress`: reports of progress on their way to the caller
* `generation`: a group of children and their registry: what one cancel ends
* `child`: the life of one child: connect, serve, ask the policy, wait, again
* `gate`: how many servers are dialled at once
* `health`: servers that say nothing are asked
* `catalog`: the merged view of what all servers offer
* `registry`: the rows of the living, and the few departed
* `stats`: snapshots
* `events`: what happened, and a bounded broadcast of it
* `lifecycle`: the states and the legal moves between them
* `dial`: from a specification to a connection
* `connection`: one live `mcp.Client` over one link: calls, and how it ends
* `diagnosis`: how a call ended, in an error
* `clock`: the bounds of one call
* `transports`: what differs by wire
* `inventory`: what one server offers
* `config`: server specifications
* `specification`: what they have in common
* `settings`: the pool's settings, and what holds for one server
* `callbacks`: functions of the user that servers call back
* `troubles`: what must not fill the log
* `redaction`: what must not be seen
* `policies`: pure decisions: restart, or park
* `checks`: what makes a value wrong
* `errors`: every exception, sorted by who must act
* `log`: lines of log, and no harm from a sink that raises
* `guard`: the boundary around user code

Logs go to loguru under the name `mcp_pool`, and are off until `logger.enable("mcp_pool")` is called.
"""

from loguru import logger

from mcp_pool.callbacks import ClientCallbacks
from mcp_pool.catalog import ToolEntry, catalog_name
from mcp_pool.config import HttpServer, InProcessServer, ServerConfig, SseServer, StdioServer
from mcp_pool.connection import ServerInfo
from mcp_pool.errors import (
    BadAnswer,
    CallTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HttpStatus,
    MCPPoolError,
    PoolClosed,
    ServerUnavailable,
    UnknownServer,
    UnknownTool,
)
from mcp_pool.events import (
    Event,
    EventsMissed,
    PoolCleared,
    ServerAdded,
    ServerRemoved,
    StatusChanged,
    ToolsChanged,
)
from mcp_pool.lifecycle import BackingOff, Closing, Connecting, ConnectionStatus, Parked, Ready
from mcp_pool.policies import HealthCheck, RestartPolicy
from mcp_pool.pool import MCPPool
from mcp_pool.server import Server
from mcp_pool.settings import DEFAULT
from mcp_pool.stats import PoolSnapshot, ServerSnapshot

__all__ = [
    "DEFAULT",
    "BackingOff",
    "BadAnswer",
    "CallTimeout",
    "ClientCallbacks",
    "Closing",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "Connecting",
    "ConnectionLost",
    "ConnectionStatus",
    "Event",
    "EventsMissed",
    "HealthCheck",
    "HttpServer",
    "HttpStatus",
    "InProcessServer",
    "MCPPool",
    "MCPPoolError",
    "Parked",
    "PoolCleared",
    "PoolClosed",
    "PoolSnapshot",
    "Ready",
    "RestartPolicy",
    "Server",
    "ServerAdded",
    "ServerConfig",
    "ServerInfo",
    "ServerRemoved",
    "ServerSnapshot",
    "ServerUnavailable",
    "SseServer",
    "StatusChanged",
    "StdioServer",
    "ToolEntry",
    "ToolsChanged",
    "UnknownServer",
    "UnknownTool",
    "catalog_name",
]

logger.disable("mcp_pool")
