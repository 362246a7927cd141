"""Which requests an unreadable line, event or body is the answer to, and what is wrong with it.

Servers are untrusted: whatever they send, it is passed over a fixed number of times, and no part of it is parsed twice.
A wrong guess can only fail a request to the same server, which could have failed it with a valid answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecoder
from typing import Any, Final, cast

from mcp.shared.dispatcher import coerce_request_id
from mcp_types import RequestId
from pydantic import ValidationError

from mcp_pool.transports.messages import BOM, NotAMessage

MAX_OBJECTS: Final = 64
"""Maximum number of objects to look at: those of a batch, or in the text of a log."""
MAX_END: Final = 256
"""Maximum distance of the id from the end, in characters, if an object cannot be parsed."""
_DECODER: Final = JSONDecoder(strict=False)
"""Accepts control characters in strings, lone surrogates, and deeper nesting than the SDK does."""
_OBJECT: Final = re.compile(r'\{\s*+"(?:jsonrpc|id|result|error)"\s*+:')
_ID: Final = r'"id"\s{0,9}:\s{0,9}(-?\d{1,20}|"[^"\\]{1,99}")'
_VERSION: Final = r'"jsonrpc"\s{0,9}:\s{0,9}"2\.0"'
_COMMA: Final = r"\s{0,9},\s{0,9}"
_ID_AT_START: Final = re.compile(
    rf'\{{\s{{0,9}}(?:{_VERSION}{_COMMA})?{_ID}{_COMMA}(?:{_VERSION}{_COMMA})?"(?:result|error)"'
)
_ID_AT_END: Final = re.compile(rf"{_COMMA}(?:{_VERSION}{_COMMA}{_ID}|{_ID}{_COMMA}{_VERSION})\s{{0,9}}\}}\s{{0,9}}$")


def answered_ids(found: NotAMessage) -> list[RequestId]:
    """Return the ids of the requests that data seems to answer, although it is not a JSON-RPC message.

    An object is an answer if its own keys say so. One with a method is a request, for example in a server's log.
    """
    value = found.value
    if value is None:
        return [coerce_request_id(request_id) for request_id in _ids_in_text(found.data)]
    batch = cast("Sequence[Any]", value) if isinstance(value, list) else [value]
    ids = (_id_of_answer(cast("dict[str, Any]", each)) for each in batch[:MAX_OBJECTS] if isinstance(each, dict))
    return [coerce_request_id(request_id) for request_id in ids if request_id is not None]


def text_before(data: bytes) -> int | None:
    """Return the position of the first JSON-RPC message in data that begins with other text; None if there is none."""
    start = _OBJECT.search(data.decode("latin-1"))  # a character for each byte
    if start is None or data[: start.start()].strip() in (b"", b"["):
        return None
    return start.start()


def problem(found: NotAMessage) -> str:
    """Return why data is not a JSON-RPC message, without showing any of it."""
    if not isinstance(found.error, ValidationError):
        if found.data.startswith(BOM):
            return "there is a byte order mark before the JSON"
        if not found.data.startswith(b"{") and text_before(found.data) is not None:
            return "there is text before the JSON"
        return f"invalid JSON: {found.error}".replace("line 1 ", "")
    details = found.error.errors(include_input=False, include_url=False, include_context=False)
    if details[0]["loc"] == ("JSONRPCRequest",):
        return "it is not a JSON object"
    missing = [detail["loc"] for detail in details if detail["type"] == "missing"]
    kind = "JSONRPCResponse" if ("JSONRPCError", "error") in missing else "JSONRPCError"
    own = [detail for detail in details if detail["loc"][0] == kind]
    return "; ".join(f"{'.'.join(map(str, detail['loc'][1:]))}: {detail['msg']}" for detail in own)


def _ids_in_text(data: bytes) -> Iterator[RequestId]:
    if b'"id"' not in data or not any(key in data for key in (b'"result"', b'"error"', b'"jsonrpc"')):
        return
    text, position = data.decode("utf-8", "replace"), 0
    for _ in range(MAX_OBJECTS):
        if (start := _OBJECT.search(text, position)) is None:
            return
        try:
            value, position = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):  # it is cut, a string is not closed, or it is nested too deeply
            yield from _ids_outside(text, start.start())
            return
        if (request_id := _id_of_answer(value)) is not None:
            yield request_id


def _ids_outside(text: str, start: int) -> Iterator[RequestId]:
    if found := _ID_AT_START.match(text, start):
        yield found[1].strip('"')
    elif found := _ID_AT_END.search(text, max(start, len(text) - MAX_END)):
        yield (found[1] or found[2]).strip('"')


def _id_of_answer(found: Mapping[str, Any]) -> RequestId | None:
    """Return the id of an object if its keys are those of an answer."""
    request_id = found.get("id")
    if "method" in found or found.keys().isdisjoint(("result", "error", "jsonrpc")):
        return None
    if isinstance(request_id, float) and request_id.is_integer():
        return int(request_id)  # some languages have no integers
    return request_id if isinstance(request_id, str | int) and not isinstance(request_id, bool) else None
