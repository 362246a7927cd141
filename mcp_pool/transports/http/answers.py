"""JSON-RPC messages in the bodies of HTTP responses, whatever their status."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Literal, final

import anyio
import attrs
import httpx2
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import BaseModel

from mcp_pool.transports.http.responses import EVENT_STREAM, EventReader, TooLong, content_type, is_unread, read_whole

JSON: Final = "application/json"
"""The content type of a single message."""
OTHER_BODY_TIMEOUT: Final = 1.0
"""Seconds for the body of a response that has failed by its status, where it is neither JSON nor a stream of events."""


@final
@attrs.frozen
class ParsedBody:
    """What the body of a response says to a request."""

    answer: JSONRPCResponse | JSONRPCError | None = None
    """The answer with the id of the request, if there is one."""
    error: JSONRPCError | None = None
    """Otherwise a JSON-RPC error without an id, or another one, with the id of the request in its place: what comes
    back on a request can only be about that request."""
    is_certain: bool = True
    """Whether it is certain that `answer` is all there is: not so where the body could not be read, or where it names
    the request without being a JSON-RPC message."""


class _WithId(BaseModel):
    """A JSON object with an id, whatever else it is."""

    id: RequestId


class _ErrorWithoutId(BaseModel):
    """A JSON-RPC error without an id."""

    jsonrpc: Literal["2.0"]
    id: None = None
    error: ErrorData


async def read_answer(response: httpx2.Response, limit: int, request_id: RequestId) -> ParsedBody:
    """Read the body of a response and return what it says to a request. Never fails, except by cancellation.

    Args:
        response: Is closed.
        limit: The longest body in bytes.
        request_id: The id of the request.
    """
    kind = content_type(response)
    if is_unread(response):
        return ParsedBody(is_certain=False)
    try:
        # An answer is worth as long a wait as the caller has; a web page is not.
        with anyio.fail_after(math.inf if kind in (JSON, EVENT_STREAM) else OTHER_BODY_TIMEOUT):
            body = await read_whole(response, limit)
    except Exception:  # noqa: BLE001  # whatever breaks the body, it leaves open what was in it
        return ParsedBody(is_certain=False)
    return parse_body(body, kind, request_id, limit)


def parse_body(body: bytes, kind: str, request_id: RequestId, limit: int) -> ParsedBody:
    """Return what a body says to a request, whatever its content type claims.

    Args:
        body: The whole body.
        kind: Its content type.
        request_id: The id of the request.
        limit: The longest event in bytes.
    """
    error: JSONRPCError | None = None
    is_certain = True
    try:
        for data in _messages_in(body, kind, limit):
            message = parse_message(data) or parse_error_without_id(data)
            if isinstance(message, JSONRPCResponse | JSONRPCError) and is_same_id(message.id, request_id):
                return ParsedBody(message)
            if isinstance(message, JSONRPCError):
                error = error or message.model_copy(update={"id": request_id})
            is_certain = is_certain and (message is not None or not _carries_id(data, request_id))
    except TooLong:
        is_certain = False
    return ParsedBody(error=error, is_certain=is_certain)


def parse_message(data: bytes) -> JSONRPCMessage | None:
    """Return the JSON-RPC message that some bytes are; None when they are none."""
    try:
        return jsonrpc_message_adapter.validate_json(data, by_name=False)
    except ValueError:
        return None


def parse_error_without_id(data: bytes) -> JSONRPCError | None:
    """Return the JSON-RPC error that some bytes are but for the id, which is missing; None when they are none.

    JSON-RPC 2.0 asks for null where the id could not be read. Servers that send JavaScript's `undefined` leave it out.
    """
    try:
        error = _ErrorWithoutId.model_validate_json(data).error
    except ValueError:
        return None
    return JSONRPCError(jsonrpc="2.0", id=None, error=error)


def is_same_id(named: RequestId | None, request_id: RequestId) -> bool:
    """Tell whether the id of an answer is that of a request, as the SDK compares them."""
    return named is not None and coerce_request_id(named) == coerce_request_id(request_id)


def _messages_in(body: bytes, kind: str, limit: int) -> Iterator[bytes]:
    return EventReader(limit).feed(body + b"\n\n") if kind == EVENT_STREAM else iter((body,))


def _carries_id(data: bytes, request_id: RequestId) -> bool:
    """Tell whether some bytes are a JSON object with the id of a request, though no JSON-RPC message."""
    try:
        named = _WithId.model_validate_json(data).id
    except ValueError:
        return False
    return is_same_id(named, request_id)
