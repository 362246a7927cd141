"""From a specification to a connection: one task that opens a client, holds it, and closes it."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import Any, Final, final

import anyio
import attrs
from mcp import Client, MCPError
from mcp.client import Transport
from mcp.server import Server as LowLevelServer
from mcp.server.mcpserver import MCPServer
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_pool.callbacks import CallbackDesk
from mcp_pool.config import HttpServer, InProcessServer, ServerConfig, StdioServer
from mcp_pool.connection import Connection
from mcp_pool.errors import ConnectError, ConnectTimeout, HttpStatus, MCPPoolError, plain
from mcp_pool.guard import ForeignCancellation, described
from mcp_pool.inventory import Inventory, take_inventory
from mcp_pool.log import log
from mcp_pool.redaction import Redactor
from mcp_pool.settings import Limits
from mcp_pool.transports.link import Link, Loss
from mcp_pool.transports.refusals import PERSON_STATUSES, refused
from mcp_pool.transports.session import Renewals

NEEDS_PERSON: Final = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOEXEC, errno.ELOOP, errno.E2BIG}
)
"""Failures to start a process that no further try can mend."""

REQUESTS: Final = {
    "spawn": "starting",
    "discover": "server/discover",
    "initialize": "initialize",
    "list": "tools/list",
    "call": "the handshake",
}


@final
@attrs.frozen(kw_only=True)
class Dial:
    """One try to connect."""

    server_id: str
    """The server's id in the pool."""
    spec: ServerConfig
    """What to connect to."""
    limits: Limits
    """The server's bounds."""
    redactor: Redactor
    """Removes the server's secrets from errors."""
    attempt: int
    """The number of this dial."""
    generation: int
    """The number of the connection that it makes."""
    mode: str
    """How the era is found, as in `mcp.Client`."""
    deadline: float
    """When it must be done, on the event loop's clock."""
    renewals: Renewals
    """When the server's session was last given up on mere evidence."""
    link: Link = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda self: Link(tapped=not isinstance(self.spec, InProcessServer), keep_secret=self.redactor.learn),
            takes_self=True,
        ),
    )
    """What is known of the wire."""
    desk: CallbackDesk = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: CallbackDesk(self.server_id, self.limits.callbacks), takes_self=True),
    )
    """Answers what the server calls back."""


async def hold_connection(
    dial: Dial, *, on_open: Callable[[Connection, Inventory], None], on_loss: Callable[[Connection], None]
) -> None:
    """Open a connection, hold it until it is over, and close it. Runs in a task of its own.

    Until it stands, cancelling the task ends the dial at once. From then on the task is shielded and ends by
    `Connection.end` or by a loss, so that the client and the server's process have up to `close_timeout` to leave.

    Args:
        dial: What to connect to, and how.
        on_open: Called once, synchronously, when the connection stands, with it and what the server offers.
        on_loss: Called at most once, synchronously, when the connection is lost; not when it is ended on purpose.

    Raises:
        ConnectError: It could not be opened.
    """
    link, limits = dial.link, dial.limits
    connection: Connection | None = None
    failure: BaseException | None = None
    dialing = anyio.CancelScope(deadline=dial.deadline)

    def give_up() -> None:
        if not dialing.cancel_called:
            dialing.deadline = math.inf  # not the time is up: there is no one to wait for
            dialing.cancel()

    link.on_early_loss = give_up
    try:
        with anyio.CancelScope() as scope, dialing:
            await anyio.lowlevel.checkpoint_if_cancelled()  # starting a process is shielded: do not begin in vain
            async with _client(dial) as client:
                inventory = await take_inventory(
                    client, dial.server_id, include=dial.spec.include_tools, exclude=dial.spec.exclude_tools
                )
                await anyio.lowlevel.checkpoint_if_cancelled()  # what is lost by now never comes to stand
                dialing.deadline = math.inf
                link.on_early_loss = None
                scope.shield = True
                modern = client.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS
                link.speaks_up = not (modern and isinstance(dial.spec, HttpServer))
                connection = Connection(dial.server_id, dial.generation, limits, dial.redactor, client, link, dial.desk)
                link.on_loss = _report(connection, on_loss)
                on_open(connection, inventory)
                await _outlast(connection, scope)
    # Around the scope, which takes its own cancellation out of a group and lets the rest of it pass.
    except Exception as error:  # noqa: BLE001  # whatever the SDK raises is one server's failure
        failure = plain(error)
        if connection is not None:
            _note_breakdown(connection, failure)
    except BaseExceptionGroup as group:
        cancelled, rest = group.split(anyio.get_cancelled_exc_class())
        if cancelled is None or not isinstance(rest, ExceptionGroup):
            raise
        # On trio, an error in the clean-up of a cancelled dial comes together with the cancellation.
        raise plain(cancelled) from None
    finally:
        if connection is not None:
            if link.loss is None:
                # Nobody ended it: a task of the SDK's did, by a cancellation from user code. The policy has to see it.
                advice = "See what its auth, http_client or server cancels."
                link.lose(Loss("broke down", cause=ForeignCancellation(), advice=advice))
            connection.end("broke down")
    if connection is None:
        raise _explain(dial, failure, timed_out=dialing.cancelled_caught and dialing.deadline < math.inf)


async def _outlast(connection: Connection, scope: anyio.CancelScope) -> None:
    """Wait until a connection is over and its calls have ended, within the time to say goodbye.

    Args:
        connection: Stands, and is held.
        scope: Shields who holds it.
    """
    async with anyio.create_task_group() as group:
        if connection.desk.takes_notifications:
            group.start_soon(connection.desk.run, name=f"mcp_pool: callbacks of {connection.server_id!r}")
        await connection.over.wait()
        if connection.is_draining:
            scope.shield = False
            try:
                await connection.idle()
            finally:
                scope.shield = True
                connection.end("was disconnected")
        scope.deadline = anyio.current_time() + connection.limits.close_timeout
        await connection.idle()
        group.cancel_scope.cancel()


def _client(dial: Dial) -> Client:
    """Make the client of a connection. Only the wires that a program uses are loaded: importing stays cheap."""
    spec, mode, close_timeout = dial.spec, dial.mode, dial.limits.close_timeout
    target: LowLevelServer[Any] | MCPServer | Transport
    match spec:
        case InProcessServer():
            target = spec.server
        case StdioServer():
            from mcp_pool.transports.stdio import stdio_transport  # noqa: PLC0415  # loaded by who uses it

            target = stdio_transport(dial.server_id, spec, dial.link, dial.redactor, close_timeout)
        case HttpServer():
            from mcp_pool.transports.streamable import streamable_transport  # noqa: PLC0415  # loaded by who uses it

            target = streamable_transport(dial.server_id, spec, dial.link, dial.renewals, close_timeout)
        case _:  # an SseServer is all that remains
            from mcp_pool.transports.sse import sse_transport  # noqa: PLC0415  # loaded by who uses it

            target, mode = sse_transport(dial.server_id, spec, dial.link, dial.renewals), "legacy"
    return Client(target, mode=mode, **dial.desk.client_arguments(), **spec.client_options)


def _report(connection: Connection, on_loss: Callable[[Connection], None]) -> Callable[[], None]:
    def report() -> None:
        on_loss(connection)
        connection.go_down()

    return report


def _note_breakdown(connection: Connection, error: BaseException) -> None:
    """Take an error of the SDK, or of an in-process server's own task, for the loss of the connection."""
    if connection.link.loss is None:
        connection.link.lose(Loss(f"broke down with {type(error).__name__}", cause=error))
    else:
        text = connection.redactor.text(described(error))
        log("DEBUG", connection.server_id, "Closing server {!r}: {}", connection.server_id, text)


def _explain(dial: Dial, failure: BaseException | None, *, timed_out: bool) -> ConnectError:
    """Say why a dial failed."""
    link, server_id = dial.link, dial.server_id
    words = link.loss.last_words if link.loss is not None else link.last_words()
    status = link.loss.exit_status if link.loss is not None else None
    request = REQUESTS[link.phase]
    kind: type[ConnectError] = ConnectError
    needs_person = False
    if timed_out:
        kind = ConnectTimeout
        what = f"did not finish {request} within connect_timeout={dial.limits.connect_timeout} s"
        advice = "See what it waits for, or raise connect_timeout."
        if link.phase == "discover" and dial.mode == "auto":
            advice += ' A server of the older era that does not answer this question wants mode="legacy".'
    elif (wrong := next(dial.spec.problems(), None)) is not None:
        # It was right when it was given to the pool; a borrowed client has been closed since.
        what, advice, needs_person = f"cannot be dialled any more: {' '.join(wrong)}", "Add it anew.", True
    elif (loss := link.loss or (refused(link.failure) if link.failure is not None else None)) is not None:
        what = f"{loss.what} during {request}"
        advice = loss.advice
        failure = loss.cause or failure
        needs_person = isinstance(failure, HttpStatus) and failure.status in PERSON_STATUSES
    elif isinstance(failure, OSError) and link.process_id is None and isinstance(dial.spec, StdioServer):
        needs_person = failure.errno in NEEDS_PERSON
        what = f"could not be started: {failure.strerror or type(failure).__name__}"
        what += "" if failure.filename is None else f": {failure.filename!r}"
        mending = "Install the program, or correct command, cwd or PATH."
        advice = mending if needs_person else "See what this system is short of."
    elif isinstance(failure, MCPError):
        what = f"answered {request} with error {failure.code}: {failure.message}"
        advice = "The server has to accept the request, or its configuration has to be corrected."
    elif isinstance(failure, MCPPoolError):
        what, advice = f"could not be listed: {failure.message}", ""
    else:
        failure = failure or ForeignCancellation()
        what = f"failed in {request} with {described(failure)}"
        advice = "See the cause."
    if link.noise:
        advice += f" It wrote {link.noise} lines to standard output that are no JSON-RPC messages."
    if words:
        advice += f" Its last words on standard error: {words}"
    return kind(
        dial.redactor.text(f"Server {server_id!r} (attempt {dial.attempt}) {what}. {advice}".strip()),
        server_id=server_id,
        generation=dial.generation - 1,
        phase=link.phase,
        attempt=dial.attempt,
        cause=dial.redactor.error(failure),
        needs_person=needs_person,
        exit_status=status,
        last_words=words,
    )
