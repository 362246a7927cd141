"""What makes a value invalid: predicates, and problems as pairs of a field's name and the rest of a sentence about it.

Each configuration class collects its problems when it is constructed, and `reject` raises them all together.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeGuard, cast

import httpx2
from pydantic_core import to_json, to_jsonable_python

from mcp_pool.errors import ConfigError, Problem

# Not compiled here, to keep the import fast: few programs need them.
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_VALUE: Final = r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?"
_HOST: Final = r"[\w.-]+|[0-9A-Fa-f:.]+(%25[\w.-]+)?"
_TRANSPORT_HEADERS: Final = frozenset({"content-length", "transfer-encoding", "mcp-session-id"})
"""Headers that would break every request, or put it in another connection's session."""
HIGHEST_PORT: Final = 65535


def reject(owner: str, problems: Iterable[Problem], *, server_id: str | None = None, after: str = "") -> None:
    """Raise one `ConfigError` for all problems, if there are any.

    Args:
        owner: What has the problems; the message begins with it.
        problems: The problems; usually none.
        server_id: The id of the server, if it is known.
        after: The last sentence of the message.
    """
    if found := tuple(problems):
        reason = f"{owner}: {'; '.join(map(' '.join, found))}.{after and f' {after}'}"
        raise ConfigError(reason, server_id=server_id, problems=found)


def kind_of(value: object) -> str:
    """Return the name of a value's class, with an article."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def is_count(value: object, *, least: int) -> bool:
    """Tell whether a value is a whole number of at least `least`; booleans do not count."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number; booleans do not count."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether a value is a mapping."""
    return isinstance(value, Mapping)


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is a string that can be passed to a process."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def count_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield a problem unless the value is a whole number of at least 1."""
    if not is_count(value, least=1):
        yield name, f"must be a whole number of at least 1, not {value!r}"


def kind_problems(name: str, value: object, kind: type | tuple[type, ...], rule: str) -> Iterator[Problem]:
    """Yield a problem unless the value is an instance of `kind`."""
    if not isinstance(value, kind):
        yield name, f"{rule}, not {kind_of(value)}"


def instance_problems(name: str, value: object, kind: type) -> Iterator[Problem]:
    """Yield a problem unless the value is an instance of a class that validates its own fields."""
    yield from kind_problems(name, value, kind, f"must be a {kind.__name__}")


def path_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield a problem unless the value is a path that can be passed to a process."""
    if not isinstance(value, str | os.PathLike):
        yield name, f"must be a path, not {kind_of(value)}"
    elif not is_text(os.fspath(cast("str | os.PathLike[str]", value))):
        yield name, "must be an encodable string without NUL"


def string_problems(name: str, value: object, kind: str) -> Iterator[Problem]:
    """Yield a problem for each item that is not a string, or one problem if the value is not a list or tuple."""
    if not isinstance(value, tuple):
        yield name, f"must be a list or tuple of {kind}, not {kind_of(value)}"
        return
    for position, item in enumerate(cast("tuple[object, ...]", value)):
        if not is_text(item):
            yield name, f"must contain only encodable strings without NUL; item {position} is not one"


def environment_problems(environment: object) -> Iterator[Problem]:
    """Yield a problem for each variable that cannot be passed to a process. Values are never shown."""
    if not is_mapping(environment):
        yield "env", f"must be a mapping of names to values, not {kind_of(environment)}"
        return
    for name, value in environment.items():
        if not is_text(name) or not name or "=" in name:
            yield "env", "must have names that are non-empty strings without '=' or NUL"
        elif not is_text(value):
            yield "env", f"must have values that are encodable strings without NUL; the value of {name!r} is not"


def url_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield a problem unless the value is a URL for HTTP. No part of it is shown."""
    if not isinstance(value, str):
        yield name, f"must be a URL as a string, not {kind_of(value)}"
        return
    try:
        parsed = httpx2.URL(value)
    except (httpx2.InvalidURL, UnicodeEncodeError):
        yield name, "must be a valid URL"
        return
    if parsed.scheme not in ("http", "https") or not parsed.host:
        yield name, "must begin with http:// or https:// and name a host"
    elif not re.fullmatch(_HOST, parsed.raw_host.decode("ascii", "replace"), re.ASCII):
        yield name, "must name a host by letters, digits, hyphens and dots, or by its IP address"
    elif parsed.port is not None and not 0 < parsed.port <= HIGHEST_PORT:
        yield name, f"must have a port between 1 and {HIGHEST_PORT}"


def header_problems(headers: object) -> Iterator[Problem]:
    """Yield a problem for each header that HTTP cannot carry. Values are never shown."""
    if not is_mapping(headers):
        yield "headers", f"must be a mapping of names to values, not {kind_of(headers)}"
        return
    seen = set[str]()
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):
            yield "headers", "must have names of letters, digits and hyphens; one name has other characters"
            continue
        if name.lower() in seen:
            yield "headers", f"must not contain a header twice, but contains {name!r} twice"
        if name.lower() in _TRANSPORT_HEADERS:
            yield "headers", f"must not contain {name!r}, which the transport sets for each request"
        if not isinstance(value, str) or not re.fullmatch(_HEADER_VALUE, value):
            yield "headers", f"must have values of printable ASCII without surrounding spaces; that of {name!r} is not"
        seen.add(name.lower())


def plain_json(value: object) -> Any:
    """Return a value as plain JSON, converted as the SDK converts what it sends.

    Raises:
        Exception: It cannot be sent: it has no JSON, is circular, is nested too deeply, or its own code raised.
    """
    plain = to_jsonable_python(value, by_alias=True, exclude_none=True)
    to_json(plain)  # half a surrogate pair has no bytes
    return plain


def argument_problems(name: str, value: object, kind: type = object) -> Iterator[Problem]:
    """Yield a problem unless the value is None or maps strings to values of type `kind`."""
    if value is None:
        return
    if not is_mapping(value):
        yield name, f"must be a mapping, not {kind_of(value)}"
    elif not all(isinstance(key, str) for key in value):
        yield name, "must have strings as keys"
    elif not all(isinstance(item, kind) for item in value.values()):
        yield name, f"must have only values of type {kind.__name__}"
