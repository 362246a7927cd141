"""A supervisor that keeps many MCP connections open inside one trio or asyncio program.

The layout of the package, top down. Imports only point down, between the packages and inside each of them:

* `pool`: `MCPPool`, the block that users open
* `catalog_calls`: what servers offer together, and calls by catalog name
* `server`: `Server`, the handle on one server
* `calls`: one call, from its name to its result
* `catalog`: what all servers offer
* `telemetry`: events and snapshots, as a program reads them
* `supervision`: the task group: one child task per server, one cancellation that ends them all
* `connection`: one live client over one channel
* `transports`: stdio, HTTP and SSE
* `config`: what users configure: specs, settings, policies, callbacks
* `errors`: every exception, grouped by who has to act
* `_shared`: redaction, logging, the guard around user code, and the condition that tasks wait on

Logs go to loguru under the name `mcp_pool` and are off until `logger.enable("mcp_pool")` is called.
"""

from loguru import logger

from mcp_pool.catalog.view import CatalogView
from mcp_pool.config.callbacks import CallbacksFor, ClientCallbacks
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.loaded import Inputs, LoadedConfig, Source
from mcp_pool.config.loading import load_config
from mcp_pool.config.policies import HealthCheck, RestartPolicy
from mcp_pool.config.servers import (
    HeadersFunction,
    HttpServer,
    InProcessServer,
    ServerConfig,
    SseServer,
    StdioServer,
)
from mcp_pool.config.settings import DEFAULT, Default, NameTool, PoolSettings, Seconds
from mcp_pool.config.target import ServerLike
from mcp_pool.connection.server_info import ServerInfo
from mcp_pool.errors import (
    CallTimeout,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    ErrorContext,
    HttpStatusError,
    InvalidResponse,
    MCPPoolError,
    NameCollision,
    Phase,
    PoolClosed,
    Problem,
    ServerUnavailable,
    ToolHeld,
    UnknownPrompt,
    UnknownServer,
    UnknownTool,
)
from mcp_pool.pool import MCPPool
from mcp_pool.server import Server
from mcp_pool.supervision.changes import Changes
from mcp_pool.supervision.entries import CatalogEntry, PromptEntry, ResourceEntry, ResourceTemplateEntry, ToolEntry
from mcp_pool.supervision.events import (
    CatalogChanged,
    ConfigRejected,
    Event,
    EventsDropped,
    PoolCleared,
    ServerAdded,
    ServerRemoved,
    StatusChanged,
)
from mcp_pool.supervision.names import catalog_name
from mcp_pool.supervision.state import BackingOff, Closing, Connecting, ConnectionStatus, Failed, Ready, State
from mcp_pool.supervision.subscriptions import ResourceUpdate, Subscription
from mcp_pool.telemetry.events import EventStream
from mcp_pool.telemetry.snapshot import PoolSnapshot, ServerSnapshot

__all__ = [
    "DEFAULT",
    "BackingOff",
    "CallTimeout",
    "CallbacksFor",
    "CatalogChanged",
    "CatalogEntry",
    "CatalogView",
    "Changes",
    "ClientCallbacks",
    "Closing",
    "ConfigError",
    "ConfigRejected",
    "ConnectError",
    "ConnectTimeout",
    "Connecting",
    "ConnectionLost",
    "ConnectionStatus",
    "Default",
    "ErrorContext",
    "Event",
    "EventStream",
    "EventsDropped",
    "Failed",
    "HeadersFunction",
    "HealthCheck",
    "HttpServer",
    "HttpStatusError",
    "InProcessServer",
    "Inputs",
    "InvalidResponse",
    "InvalidServer",
    "LoadedConfig",
    "MCPPool",
    "MCPPoolError",
    "NameCollision",
    "NameTool",
    "Phase",
    "PoolCleared",
    "PoolClosed",
    "PoolSettings",
    "PoolSnapshot",
    "Problem",
    "PromptEntry",
    "Ready",
    "ResourceEntry",
    "ResourceTemplateEntry",
    "ResourceUpdate",
    "RestartPolicy",
    "Seconds",
    "Server",
    "ServerAdded",
    "ServerConfig",
    "ServerInfo",
    "ServerLike",
    "ServerRemoved",
    "ServerSnapshot",
    "ServerUnavailable",
    "Source",
    "SseServer",
    "State",
    "StatusChanged",
    "StdioServer",
    "Subscription",
    "ToolEntry",
    "ToolHeld",
    "UnknownPrompt",
    "UnknownServer",
    "UnknownTool",
    "catalog_name",
    "load_config",
]

logger.disable("mcp_pool")
