"""The SDK's own stdio transport with tracked streams, used on Windows.

It does less than the POSIX transport: no limit on the length of a line, no exit status, no process id, no stderr tail,
and the SDK's fixed time-outs for closing instead of `close_timeout`.
"""
# Not measured by coverage: the tests do not run on Windows.

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.message import SessionMessage

from mcp_pool.config.servers import StdioServer
from mcp_pool.transports.channel import Channel, DisconnectCause
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream


@asynccontextmanager
async def windows_transport(
    spec: StdioServer, channel: Channel
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Return the transport of one connection. See `stdio_transport` for the arguments."""
    parameters = StdioServerParameters(
        command=spec.command,
        args=list(spec.args),
        env=dict(spec.env) if spec.env is not None else None,
        cwd=None if spec.cwd is None else str(spec.cwd),
    )
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    accepted, outgoing = anyio.create_memory_object_stream[Outgoing](0)
    async with stdio_client(parameters) as (read_stream, write_stream), anyio.create_task_group() as group:

        async def pump_in() -> None:
            async for item in read_stream:
                if isinstance(item, SessionMessage):
                    await to_client.send(item)
            channel.mark_lost(DisconnectCause("closed its standard output"))
            to_client.close()

        async def pump_out() -> None:
            async for item in outgoing:
                if (record := item.record) is not None:
                    if record.done or channel.disconnect_cause is not None:
                        continue  # its caller was told that it was not sent
                    record.requests_sent += 1
                await write_stream.send(item.message)

        with to_client, from_server, accepted, outgoing:
            group.start_soon(pump_in)
            group.start_soon(pump_out)
            yield TrackedReadStream(from_server, channel), TrackedWriteStream(accepted, channel)
            group.cancel_scope.cancel()
