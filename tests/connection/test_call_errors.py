"""The errors of calls."""

from __future__ import annotations

import anyio
import pytest

from mcp_pool import ConnectionLost, MCPPool, StdioServer
from mcp_pool.config.target import Target
from mcp_pool.connection.call_errors import CallErrors
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause, Failure


@pytest.mark.parametrize("lost", [False, True])
async def test_a_call_that_failed_says_whether_the_connection_stays_in_use(*, lost: bool) -> None:
    channel = Channel(tracked=True)
    target = Target.of(MCPPool()._supervisor.settings, "s", StdioServer("program"))
    record = CallRecord(channel, anyio.CancelScope(), requests_sent=1, failure=Failure("broke off"))
    if lost:
        channel.mark_lost(DisconnectCause("is gone"))
    error = CallErrors(target, 1, channel).explain(OSError(), record, "the call to tool 'x'", answered=False)
    assert isinstance(error, ConnectionLost)
    assert error.may_have_run
    assert ("The connection stays in use." in error.reason) is not lost
