"""JSON-RPC messages from bytes."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Any, Final, Literal, final

import attrs
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import ErrorData, JSONRPCError, JSONRPCMessage, RequestId, jsonrpc_message_adapter
from pydantic import BaseModel
from pydantic_core import from_json

BOM: Final = BOM_UTF8
"""The byte order mark that some programs write before UTF-8. JSON parsers reject it."""
RAISE_LIMIT: Final = "Raise max_message_size, or let the server send less."
"""Advice for a message that is longer than the limit in the spec."""


@final
@attrs.frozen(eq=False)
class NotAMessage:
    """Data that is not a JSON-RPC message."""

    data: bytes
    """The data."""
    value: Any
    """The JSON value; None if it is not JSON."""
    error: ValueError
    """What is wrong with it: a `ValidationError` if it is JSON."""


class _ErrorWithoutId(BaseModel):
    """A JSON-RPC error without an id."""

    jsonrpc: Literal["2.0"]
    id: None = None
    error: ErrorData


def parse(data: bytes) -> JSONRPCMessage | NotAMessage:
    """Return data as a JSON-RPC message, if it is one.

    In two steps: an error of the two in one holds several copies of the whole value.
    """
    value = None
    try:
        value = from_json(data)
        return jsonrpc_message_adapter.validate_python(value, by_name=False)
    except ValueError as error:
        return NotAMessage(data, value, error)


def parse_message(data: bytes) -> JSONRPCMessage | None:
    """Return data as a JSON-RPC message; None if it is not one."""
    found = parse(data)
    return None if isinstance(found, NotAMessage) else found


def error_without_id(found: JSONRPCMessage | NotAMessage) -> JSONRPCError | None:
    """Return what was parsed as a JSON-RPC error whose id is null or missing; None if it is not one.

    JSON-RPC 2.0 requires null if the server could not read the id. Servers that set JavaScript's `undefined` omit it.
    """
    if not isinstance(found, NotAMessage):
        return found if isinstance(found, JSONRPCError) and found.id is None else None
    try:
        error = _ErrorWithoutId.model_validate(found.value).error
    except ValueError:
        return None
    return JSONRPCError(jsonrpc="2.0", id=None, error=error)


def parse_error_without_id(data: bytes) -> JSONRPCError | None:
    """Return data as a JSON-RPC error whose id is null or missing; None if it is not one."""
    return error_without_id(parse(data))


def is_same_id(answer_id: RequestId | None, request_id: RequestId) -> bool:
    """Return whether an answer has the id of a request, comparing as the SDK does."""
    return answer_id is not None and coerce_request_id(answer_id) == coerce_request_id(request_id)
