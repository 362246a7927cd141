"""A server over standard input and output, as a transport for `mcp.Client`.

Messages are JSON-RPC, one per line (MCP specification, Transports, stdio). Five tasks run in one group: one writes, two
read, one waits for the process to exit, and one gathers the details of a loss. The connection is lost as soon as the
output ends, the process exits, or a line is too long; answers that are still in the pipe, the exit status and the end
of standard error are gathered after that.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, final

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage

from mcp_pool._shared.exceptions import plain
from mcp_pool.config.servers import StdioServer
from mcp_pool.config.target import Target
from mcp_pool.transports.channel import Answer, CallRecord, Channel, DisconnectCause
from mcp_pool.transports.messages import RAISE_LIMIT, parse
from mcp_pool.transports.stdio.guardian import Guardian
from mcp_pool.transports.stdio.lines import LineSplitter, LineTooLong
from mcp_pool.transports.stdio.process import ServerProcess, read, spawn
from mcp_pool.transports.stdio.read_ahead import ReadAhead
from mcp_pool.transports.stdio.stderr import ERROR_LINE_LIMIT, StderrTail
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream
from mcp_pool.transports.unreadable import Unreadable, is_readable

DETAILS_TIMEOUT: Final = 0.1
"""Seconds to wait for exit status, answers and standard error once the connection is lost, each time. The waits run
out if a descendant holds the pipes, or if the server keeps running with its output closed."""
DETAILS_WAITS: Final = 5
"""How many such waits: one long wait would be over at once in a program that has just been suspended. Those in which
many lines are handled do not count: on a busy machine, reading what the server wrote last takes longer."""
DETAILS_LIMIT: Final = 5.0
"""Seconds for all of them: a descendant may write for ever."""
INCOMING: Final = 32
"""Messages that may wait for the SDK, which takes one per turn of the event loop, so that they are handled in order.
Without a buffer each would take two turns, and a flood would take twice as long to get through."""
OUTGOING: Final = 64
"""Messages that may wait for the writer. With a short queue, cancel notices would be dropped when many calls end."""
LINES_PER_TURN: Final = 100
"""Lines that are handled before other tasks get a turn: a chunk may consist of newlines only."""


def stdio_transport(
    target: Target, spec: StdioServer, channel: Channel, guardian: Guardian
) -> AbstractAsyncContextManager[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Return the transport of one connection. Entering it starts the process, leaving it ends the process group.

    Args:
        target: The server: its id, its secrets and its limits.
        spec: What to run.
        channel: Is told what happens on the connection.
        guardian: Ends the process group if this program is killed.
    """
    if sys.platform == "win32":  # pragma: no cover  # Windows has no process groups of this kind
        from mcp_pool.transports.stdio.windows import windows_transport  # noqa: PLC0415  # only needed here

        return windows_transport(spec, channel)
    return _posix_transport(target, spec, channel, guardian)


@asynccontextmanager
async def _posix_transport(
    target: Target, spec: StdioServer, channel: Channel, guardian: Guardian
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    environment = get_default_environment() | dict(spec.env or {})
    with spawn([spec.command, *spec.args], env=environment, cwd=spec.cwd, guardian=guardian) as process:
        tail = StderrTail(target.server_id, target.redactor)
        transport = _StdioTransport(target.server_id, spec.max_message_size, channel, process, tail)
        async with anyio.create_task_group() as group:
            group.start_soon(transport.run)
            try:
                yield transport.reader, transport.writer
            finally:
                try:
                    with anyio.CancelScope(shield=True):
                        transport.close()
                        await process.stop(target.limits.close_timeout)
                        await transport.details_known()
                finally:
                    transport.scope.cancel()  # even if Ctrl-C interrupted the lines above: nothing else ends the tasks


@final
@attrs.define(eq=False)
class _StdioTransport:
    """The tasks of one connection, and the streams between them and the SDK."""

    server_id: str
    max_message_size: int
    channel: Channel
    process: ServerProcess
    standard_error: StderrTail
    scope: anyio.CancelScope = attrs.field(factory=lambda: anyio.CancelScope(shield=True), init=False)
    """Holds the tasks. Shielded, so that they run until the process has ended even if the attempt is cancelled: a
    server cannot exit while nobody reads its output."""
    reader: TrackedReadStream = attrs.field(init=False)
    writer: TrackedWriteStream = attrs.field(init=False)
    output: ReadAhead = attrs.field(init=False)
    unreadable: Unreadable = attrs.field(init=False)
    _to_client: MemoryObjectSendStream[SessionMessage] = attrs.field(init=False)
    _from_server: MemoryObjectReceiveStream[SessionMessage] = attrs.field(init=False)
    _accepted: MemoryObjectSendStream[Outgoing] = attrs.field(init=False)
    _outgoing: MemoryObjectReceiveStream[Outgoing] = attrs.field(init=False)
    _lost: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set at the first sign that the connection has ended."""
    _explained: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when the channel has the details of the loss."""
    _output_ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _errors_ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _too_long: bool = attrs.field(default=False, init=False)
    """Whether a line was too long: what follows is read and discarded."""
    _lines: int = attrs.field(default=0, init=False)
    """How many lines were read, from standard output and standard error."""
    _closing: bool = attrs.field(default=False, init=False)
    """Whether the pool is closing the connection: an exit that this causes says nothing about the server."""
    _input_closed: bool = attrs.field(default=False, init=False)
    """Whether the server closed its standard input."""

    def __attrs_post_init__(self) -> None:
        self._to_client, self._from_server = anyio.create_memory_object_stream[SessionMessage](INCOMING)
        self._accepted, self._outgoing = anyio.create_memory_object_stream[Outgoing](OUTGOING)
        self.reader = TrackedReadStream(self._from_server, self.channel, notes_activity=False)
        self.writer = TrackedWriteStream(self._accepted, self.channel)
        self.output = ReadAhead(self.process.output, self.channel.note_activity)
        self.unreadable = Unreadable(
            self.server_id,
            self.channel,
            "writes lines to standard output",
            "Fix the server: each line on standard output must be one JSON-RPC message in UTF-8.",
        )
        self.channel.process_id = self.process.pid
        self.channel.stderr_tail = self.standard_error.text

    async def run(self) -> None:
        """Run the tasks until the scope is cancelled."""
        with self.scope, self._to_client, self._from_server, self._accepted, self._outgoing:
            try:
                async with anyio.create_task_group() as group:
                    for task in (self._write, self._read_output, self._read_errors, self._watch, self._gather_details):
                        group.start_soon(task)
            except Exception as error:  # noqa: BLE001  # whatever fails here, the connection must not appear to work
                cause = plain(error)
                broken = DisconnectCause(f"can no longer be read ({type(cause).__name__})", cause=cause)
                self.channel.mark_lost(broken)
                self._explain(broken)
            finally:  # a cancellation that nobody in the package requested ends the tasks, or keeps them from starting
                self._errors_ended.set()
                self._explained.set()
                self.process.end_input()

    def close(self) -> None:
        """Stop the traffic: the writer writes what is queued and closes the server's input; the output is discarded."""
        self._closing = True
        self._accepted.close()
        self._from_server.close()

    async def _write(self) -> None:
        """Write what the SDK sends, until it stops.

        Once the connection is lost, messages are dropped: the errors of their calls say that they were not sent.
        """
        try:
            async for outgoing in self._outgoing:
                try:
                    await self._write_line(memoryview(outgoing.body + b"\n"), outgoing.record)
                except BrokenPipeError:
                    self._input_closed = True
                    self._lose()
        finally:
            self._closing = True
            self.process.end_input()

    async def _write_line(self, line: memoryview, record: CallRecord | None) -> None:
        started = False
        while line and (started or not self._should_drop(record)):
            await self.process.wait_for_room()
            if started or not self._should_drop(record):
                written = self.process.write_some(line)
                line = line[written:]
                if written and not started:
                    started = True
                    if record is not None:
                        record.requests_sent += 1

    def _should_drop(self, record: CallRecord | None) -> bool:
        """Tell whether not to start writing a message: nobody would answer it, or its call has ended as not sent."""
        return self.channel.disconnect_cause is not None or (record is not None and record.done)

    async def _read_output(self) -> None:
        """Pass the server's messages to the SDK. Reads to the end of the stream, so that the server never blocks."""
        splitter = LineSplitter(self.max_message_size)
        while page := await self.output.page():
            if not self._too_long:
                await self._deliver(splitter, page)
        self._output_ended.set()
        self._lose()

    async def _deliver(self, splitter: LineSplitter, page: bytes) -> None:
        try:
            for line in splitter.feed(page):
                await self._note_line()
                found = parse(line)
                for message in (found,) if is_readable(found) else self.unreadable.messages(line, found):
                    await self._hand_over(message)
                    self.output.look()
        except LineTooLong:
            self._too_long = True
            self._lose()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK has stopped reading; the rest is discarded so that the server can exit

    async def _hand_over(self, message: JSONRPCMessage) -> None:
        try:
            self._to_client.send_nowait(SessionMessage(message))
        except anyio.WouldBlock:
            await self._to_client.send(SessionMessage(message))
        if isinstance(message, Answer):
            # The SDK takes it a moment later. If the server exits before that, it is still the answer.
            self.channel.note_answer(message)

    async def _note_line(self) -> None:
        self._lines += 1
        if self._lines % LINES_PER_TURN == 0:
            await anyio.lowlevel.checkpoint()

    async def _read_errors(self) -> None:
        """Keep the tail of standard error, and log it line by line."""
        splitter = LineSplitter(ERROR_LINE_LIMIT, cut=True)
        while chunk := await read(self.process.errors):
            for line in splitter.feed(chunk):
                await self._note_line()
                self.standard_error.add(line)
        if rest := splitter.take():
            self.standard_error.add(rest)
        self.standard_error.tell_omitted()
        self._errors_ended.set()

    async def _watch(self) -> None:
        """Notice when the process exits."""
        await self.process.wait()
        self._lose()

    def _lose(self) -> None:
        """Declare the connection lost at the first sign of its end: a dead server must not appear connected."""
        if not self._closing:
            self.channel.mark_lost(self._cause(is_complete=False))
            self._lost.set()

    async def _gather_details(self) -> None:
        """Once the connection is lost, wait for its details, then end the calls that wait for them."""
        await self._lost.wait()
        waits = DETAILS_WAITS if self._too_long else 0  # after too long a line the server is still running
        limit = anyio.current_time() + DETAILS_LIMIT
        while waits < DETAILS_WAITS and anyio.current_time() < limit:
            lines = self._lines
            with anyio.move_on_after(DETAILS_TIMEOUT):
                await self.process.wait()
                await self._output_ended.wait()
                await self._errors_ended.wait()
                break
            waits += self._lines - lines < LINES_PER_TURN
        self._explain(self._cause(is_complete=True))

    def _explain(self, cause: DisconnectCause) -> None:
        self.channel.complete(cause)
        self._explained.set()
        self._to_client.close()

    async def details_known(self) -> None:
        """Once the process was stopped, wait until its standard error was read and the channel has all details."""
        with anyio.move_on_after(DETAILS_TIMEOUT):  # a descendant in a session of its own may hold the pipe
            await self._errors_ended.wait()
        cause = self.channel.disconnect_cause
        if cause is not None and not cause.is_complete:
            await self._explained.wait()

    def _cause(self, *, is_complete: bool) -> DisconnectCause:
        advice = RAISE_LIMIT if self._too_long else "Run its command in a terminal to see more."
        tail = self.standard_error.text()
        return DisconnectCause(self._describe_end(), self.process.status, tail, advice=advice, is_complete=is_complete)

    def _describe_end(self) -> str:
        """Say what happened, the most reliable sign first."""
        if self._too_long:
            return f"sent a line longer than max_message_size={self.max_message_size} bytes"
        if self.process.exit is None:
            return f"closed its standard {'input' if self._input_closed else 'output'}"
        return str(self.process.exit)
