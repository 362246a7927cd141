"""A server over standard input and output, as a transport for `mcp.Client`.

Messages are JSON-RPC, one a line (MCP specification, Transports, stdio). Four tasks live in one group while the wire is
up: one writes, two read, one watches. The wire is down when the output has ended, the process has exited, or a
line was too long; what the server said last is gathered first, so that the loss can tell it.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, final

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCResponse, jsonrpc_message_adapter

from mcp_pool._shared.exceptions import plain
from mcp_pool._shared.log import log
from mcp_pool.config.servers import StdioServer
from mcp_pool.config.target import Target
from mcp_pool.transports.channel import CallRecord, Channel, DisconnectCause
from mcp_pool.transports.stdio.guardian import Guardian
from mcp_pool.transports.stdio.lines import LineSplitter, LineTooLong
from mcp_pool.transports.stdio.process import ServerProcess, read, spawn
from mcp_pool.transports.stdio.read_ahead import ReadAhead
from mcp_pool.transports.stdio.stderr import ERROR_LINE_LIMIT, StderrTail
from mcp_pool.transports.tracked_streams import Outgoing, TrackedReadStream, TrackedWriteStream

LAST_WORDS_TIMEOUT: Final = 0.5
"""Seconds without a line, between the first sign of the end and its declaration, for exit status and stderr tail to
arrive. A descendant that holds the pipes, or a server that lives on with its output closed, makes the wait run out."""
LAST_WORDS_LIMIT: Final = 5.0
"""Seconds for that as a whole: a descendant may write for ever."""
INCOMING: Final = 32
"""Messages that may wait for the SDK, which takes one in each turn of the event loop: what came in order is then begun
in order. Without room, each would cost a second turn, and a flood would pass for activity all the longer."""
OUTGOING: Final = 64
"""Messages that may wait for the writer. A notice that a call was cancelled must not be lost for being one of many."""
LINES_PER_TURN: Final = 100
"""Lines that are looked at before other tasks have a turn: a chunk may be nothing but ends of lines."""


def stdio_transport(
    target: Target, spec: StdioServer, channel: Channel, guardian: Guardian
) -> AbstractAsyncContextManager[tuple[TrackedReadStream, TrackedWriteStream]]:
    """Make the transport of one connection; entering it starts the process, leaving it ends the whole group.

    Args:
        target: The server, for its id, its secrets and its bounds.
        spec: What to run.
        channel: Learns what happens on the wire.
        guardian: Ends the process group if this program is killed.
    """
    if sys.platform == "win32":  # pragma: no cover  # the pipes and groups of POSIX do not exist there
        from mcp_pool.transports.stdio.windows import windows_transport  # noqa: PLC0415  # nobody else needs it

        return windows_transport(spec, channel)
    return _posix(target, spec, channel, guardian)


@asynccontextmanager
async def _posix(
    target: Target, spec: StdioServer, channel: Channel, guardian: Guardian
) -> AsyncGenerator[tuple[TrackedReadStream, TrackedWriteStream]]:
    environment = get_default_environment() | dict(spec.env or {})
    with spawn([spec.command, *spec.args], env=environment, cwd=spec.cwd, guardian=guardian) as process:
        tail = StderrTail(target.server_id, target.redactor)
        wire = _Wire(target.server_id, spec.max_message_size, channel, process, tail)
        async with anyio.create_task_group() as group:
            group.start_soon(wire.run)
            try:
                yield wire.reader, wire.writer
            finally:
                with anyio.CancelScope(shield=True):
                    wire.close()
                    await process.stop(target.limits.close_timeout)
                wire.scope.cancel()


@final
@attrs.define(eq=False)
class _Wire:
    """The tasks of one connection and the streams between them and the SDK."""

    server_id: str
    max_message_size: int
    channel: Channel
    process: ServerProcess
    standard_error: StderrTail
    scope: anyio.CancelScope = attrs.field(factory=lambda: anyio.CancelScope(shield=True), init=False)
    """Holds the tasks. Shielded: a cancelled attempt must not stop them before the process has been ended, or nobody
    would drain the output of a server that wants to leave."""
    reader: TrackedReadStream = attrs.field(init=False)
    writer: TrackedWriteStream = attrs.field(init=False)
    output: ReadAhead = attrs.field(init=False)
    _to_client: MemoryObjectSendStream[SessionMessage] = attrs.field(init=False)
    _from_server: MemoryObjectReceiveStream[SessionMessage] = attrs.field(init=False)
    _accepted: MemoryObjectSendStream[Outgoing] = attrs.field(init=False)
    _outgoing: MemoryObjectReceiveStream[Outgoing] = attrs.field(init=False)
    _dying: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set at the first sign of the end."""
    _output_ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _errors_ended: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _too_long: bool = attrs.field(default=False, init=False)
    """Whether a line was too long: what follows it is drained and not looked at."""
    _lines: int = attrs.field(default=0, init=False)
    """How many lines were read."""
    _deaf: bool = attrs.field(default=False, init=False)
    """Whether the server closed its standard input."""

    def __attrs_post_init__(self) -> None:
        self._to_client, self._from_server = anyio.create_memory_object_stream[SessionMessage](INCOMING)
        self._accepted, self._outgoing = anyio.create_memory_object_stream[Outgoing](OUTGOING)
        self.reader = TrackedReadStream(self._from_server, self.channel, notes_activity=False)
        self.writer = TrackedWriteStream(self._accepted, self.channel)
        self.output = ReadAhead(self.process.output, self.channel.note_activity)
        self.channel.process_id = self.process.process.pid
        self.channel.stderr_tail = self.standard_error.text

    async def run(self) -> None:
        """Run the tasks until the scope is cancelled."""
        with self.scope, self._to_client, self._from_server, self._accepted, self._outgoing:
            try:
                async with anyio.create_task_group() as group:
                    for task in (self._write, self._read_output, self._read_errors, self._watch, self._announce_end):
                        group.start_soon(task)
            except Exception as error:  # noqa: BLE001  # whatever breaks here: the connection must not seem to stand
                cause = plain(error)
                self.channel.mark_lost(
                    DisconnectCause(f"is no longer being read after {type(cause).__name__}", cause=cause)
                )
                self._to_client.close()
                await self._watch()  # so that the end of the process is still seen

    def close(self) -> None:
        """End the traffic: the writer writes what it has and ends the server's input, the output is drained."""
        self._accepted.close()
        self._from_server.close()

    async def _write(self) -> None:
        """Write what the SDK sends, until it stops.

        Once the end has shown itself, messages are taken and dropped: their calls wait for the loss that is about to be
        declared, and it tells them truly that nothing of them was written.
        """
        try:
            async for outgoing in self._outgoing:
                try:
                    await self._write_line(memoryview(outgoing.body + b"\n"), outgoing.record)
                except BrokenPipeError:
                    self._deaf = True
                    self._dying.set()
        finally:
            self.process.end_input()

    async def _write_line(self, line: memoryview, record: CallRecord | None) -> None:
        begun = False
        while line and (begun or not self._is_in_vain(record)):
            await self.process.wait_for_room()
            if begun or not self._is_in_vain(record):
                written = self.process.write_some(line)
                line = line[written:]
                if written and not begun:
                    begun = True
                    if record is not None:
                        record.requests_sent += 1

    def _is_in_vain(self, record: CallRecord | None) -> bool:
        """Tell whether a message is not to be begun: nobody would answer it, or its call has ended as one not run."""
        return self._dying.is_set() or self.channel.disconnect_cause is not None or (record is not None and record.done)

    async def _read_output(self) -> None:
        """Hand the server's messages to the SDK. Reads to the end of the stream, so that the server never blocks."""
        splitter = LineSplitter(self.max_message_size)
        while page := await self.output.page():
            if not self._too_long:
                await self._deliver(splitter, page)
        self._output_ended.set()
        self._dying.set()

    async def _deliver(self, splitter: LineSplitter, page: bytes) -> None:
        try:
            for line in splitter.feed(page):
                await self._note_line()
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    self._note_noise(line)
                else:
                    await self._hand_over(message)
                    self.output.look()
        except LineTooLong:
            self._too_long = True
            self._dying.set()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the SDK has stopped reading; the rest is drained so that the server can leave

    async def _hand_over(self, message: JSONRPCMessage) -> None:
        try:
            self._to_client.send_nowait(SessionMessage(message))
        except anyio.WouldBlock:
            await self._to_client.send(SessionMessage(message))
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            # The SDK takes it a moment later. If the server dies before, it is the answer all the same.
            self.channel.note_answer(message)

    async def _note_line(self) -> None:
        self._lines += 1
        if self._lines % LINES_PER_TURN == 0:
            await anyio.lowlevel.checkpoint()

    def _note_noise(self, line: bytes) -> None:
        if line.strip():
            self.channel.unreadable_lines += 1
            if self.channel.unreadable_lines == 1:  # one line of log for a server that may print for ever
                words = "Server {!r} writes lines to standard output that are not JSON-RPC; they are ignored"
                log("WARNING", self.server_id, words, self.server_id)

    async def _read_errors(self) -> None:
        """Keep the end of what the server writes to standard error, and log it line by line."""
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
        """Notice the end of the process."""
        await self.process.watch()
        self._dying.set()

    async def _announce_end(self) -> None:
        """Declare the wire down once its end has shown itself, with what can be known of it in a short time."""
        await self._dying.wait()
        if not self._too_long:  # otherwise the server lives on, and there is nothing to wait for
            with anyio.move_on_after(LAST_WORDS_LIMIT):
                await self._last_words()
        advice = "Run its command in a terminal to see more."
        self.channel.mark_lost(
            DisconnectCause(self._what(), self.process.status, self.standard_error.text(), advice=advice)
        )
        self._to_client.close()

    async def _last_words(self) -> None:
        """Wait until all has ended that belongs to the end, or nothing more comes."""
        looked_at = -1
        while looked_at != self._lines:  # on a busy machine, what is there already may take its time to be read
            looked_at = self._lines
            with anyio.move_on_after(LAST_WORDS_TIMEOUT):
                await self.process.exited.wait()
                await self._output_ended.wait()
                await self._errors_ended.wait()
                return

    def _what(self) -> str:
        """Say what happened, the surest sign first."""
        status = self.process.status
        if self._too_long:
            return f"sent a line longer than max_message_size={self.max_message_size} bytes"
        if status is None:
            return f"closed its standard {'input' if self._deaf else 'output'}"
        return f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
