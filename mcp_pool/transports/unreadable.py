"""What happens to a line or an event that is not a message: it fails the call that it answers, or it is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard, final

import attrs
from mcp_types import JSONRPCError, JSONRPCMessage, RequestId

from mcp_pool._shared.log import log
from mcp_pool.transports.answered_ids import answered_ids, problem, text_before
from mcp_pool.transports.channel import Answer, Channel, Failure
from mcp_pool.transports.messages import BOM, NotAMessage, error_without_id, parse


def is_readable(found: JSONRPCMessage | NotAMessage) -> TypeGuard[JSONRPCMessage]:
    """Return whether the SDK can make use of what was parsed: not of an error that names no request."""
    return not isinstance(found, NotAMessage) and not (isinstance(found, JSONRPCError) and found.id is None)


@final
@attrs.frozen(eq=False)
class Unreadable:
    """Handles unreadable data on a wire where one stream carries the answers to all requests."""

    server_id: str
    """For the log."""
    channel: Channel
    """Knows the open requests."""
    source: str
    """How the data arrives, as a phrase that follows the server's name: "writes lines to standard output"."""
    advice: str
    """How to fix the server, as a sentence."""

    def messages(self, data: bytes, found: JSONRPCMessage | NotAMessage) -> Iterator[JSONRPCMessage]:
        """Yield the messages to pass to the SDK instead.

        Args:
            data: A line or an event.
            found: What was parsed from it, which is not readable.
        """
        if data.startswith(BOM) and is_readable(after := parse(data.removeprefix(BOM))):
            yield after
        elif (error := error_without_id(found)) is not None and (sole := self.channel.requests.sole) is not None:
            yield error.model_copy(update={"id": sole})
        elif (answer := self._answer_after_text(data)) is not None:
            yield answer
        elif isinstance(found, NotAMessage) and (answered := self._open_requests_of(found)):
            what = f"sent {self._noun} that is not a JSON-RPC message ({problem(found)}): {self.channel.quote(data)}"
            for request_id in answered:
                yield self.channel.fail(request_id, Failure(what, malformed=True, advice=self.advice))
        elif data.strip():
            self._count(data)

    def _open_requests_of(self, found: NotAMessage) -> list[RequestId]:
        return [request_id for request_id in answered_ids(found) if request_id in self.channel.requests]

    @property
    def _noun(self) -> str:
        noun = self.channel.unreadable.noun
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

    def _answer_after_text(self, data: bytes) -> Answer | None:
        """Return the answer that follows other text, during the handshake: a banner may lack its newline."""
        if self.channel.is_settled or (position := text_before(data)) is None:
            return None
        answer = parse(data[position:])
        if not isinstance(answer, Answer) or answer.id not in self.channel.requests:
            return None
        words = "Server {!r} {} that begin with other text, which is ignored: {}"
        log("WARNING", self.server_id, words, self.server_id, self.source, self.channel.quote(data[:position]))
        return answer

    def _count(self, data: bytes) -> None:
        count = self.channel.unreadable
        count.add(lambda: self.channel.quote(data))
        if count.total == 1:  # logged once, because the server may print for ever
            words = "Server {!r} {} that are not JSON-RPC; they are ignored. The first: {}"
            log("WARNING", self.server_id, words, self.server_id, self.source, count.beginning.first)
