"""JSON-RPC messages in the bodies of HTTP responses, whatever the status."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, final

import anyio
import attrs
import httpx2
from mcp_types import JSONRPCError, RequestId
from pydantic import BaseModel

from mcp_pool.transports.channel import Answer
from mcp_pool.transports.http.event_streams import EventReader
from mcp_pool.transports.http.responses import EVENT_STREAM, TooLong, content_type, is_unread, read_whole
from mcp_pool.transports.http.status_errors import readable
from mcp_pool.transports.messages import BOM, is_same_id, parse_error_without_id, parse_message

JSON: Final = "application/json"
"""The content type of a single message."""
OTHER_BODY_TIMEOUT: Final = 1.0
"""Seconds to read the body of an error response that is neither JSON nor an event stream."""


@final
@attrs.frozen
class ParsedBody:
    """The answer to a request that was found in the body of a response."""

    answer: Answer | None = None
    """The answer with the id of the request, if any."""
    error: JSONRPCError | None = None
    """Without an answer: a JSON-RPC error with no id or another id, which is replaced by the id of the request, as a
    response can only be about its own request."""
    is_certain: bool = True
    """Whether a missing answer is certain. False if the body could not be read, or contains the id of the request in
    something other than a JSON-RPC message."""
    excerpt: bytes = attrs.field(default=b"", repr=False)
    """What is worth quoting of the body. It may hold secrets."""


class _WithId(BaseModel):
    """Any JSON object with an id."""

    id: RequestId


async def read_answer(response: httpx2.Response, limit: int, request_id: RequestId) -> ParsedBody:
    """Read the body of a response, close the response, and return the answer in it. Raises nothing but a cancellation.

    Args:
        response: The response.
        limit: The longest body in bytes.
        request_id: The id of the request.
    """
    kind = content_type(response)
    if is_unread(response):
        return ParsedBody(is_certain=False)
    try:
        # An answer may take as long as the call; a web page may not.
        with anyio.fail_after(math.inf if kind in (JSON, EVENT_STREAM) else OTHER_BODY_TIMEOUT):
            body = await read_whole(response, limit)
    except Exception:  # noqa: BLE001  # whatever the error, the body may have held the answer
        return ParsedBody(is_certain=False)
    return attrs.evolve(parse_body(body, kind, request_id, limit), excerpt=readable(body, kind))


def parse_body(body: bytes, kind: str, request_id: RequestId, limit: int) -> ParsedBody:
    """Return the answer to a request in a body of any content type.

    Args:
        body: The whole body.
        kind: The content type.
        request_id: The id of the request.
        limit: The longest event in bytes.
    """
    error: JSONRPCError | None = None
    is_certain = True
    try:
        for data in _messages_in(body.removeprefix(BOM), kind, limit):
            message = parse_message(data) or parse_error_without_id(data)
            if isinstance(message, Answer) and is_same_id(message.id, request_id):
                return ParsedBody(message)
            if isinstance(message, JSONRPCError):
                error = error or message.model_copy(update={"id": request_id})
            is_certain = is_certain and (message is not None or not _carries_id(data, request_id))
    except TooLong:
        is_certain = False
    return ParsedBody(error=error, is_certain=is_certain)


def _messages_in(body: bytes, kind: str, limit: int) -> Iterator[bytes]:
    return EventReader(limit).feed(body + b"\n\n") if kind == EVENT_STREAM else iter((body,))


def _carries_id(data: bytes, request_id: RequestId) -> bool:
    """Return whether data is a JSON object with the id of a request."""
    try:
        return is_same_id(_WithId.model_validate_json(data).id, request_id)
    except ValueError:
        return False
