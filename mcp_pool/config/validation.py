"""What makes a value invalid: predicates, and problems as pairs of a field's name and the end of a sentence about it.

Each class of the configuration collects its problems when it is made, and `reject` raises them all together.
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

# Not compiled here: few programs need them, and all would pay for it at import.
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_VALUE: Final = r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?"
_HOST: Final = r"[\w.-]+|[0-9A-Fa-f:.]+(%25[\w.-]+)?"
_HEADERS_OF_THE_WIRE: Final = frozenset({"content-length", "transfer-encoding", "mcp-session-id"})
"""Headers that would break each request, or put it into another connection's session."""
HIGHEST_PORT: Final = 65535


def reject(owner: str, problems: Iterable[Problem], *, server_id: str | None = None, after: str = "") -> None:
    """Raise one `ConfigError` for all problems, if there are any.

    Args:
        owner: What they are problems of: the beginning of the message.
        problems: Usually none.
        server_id: The server, where it is known.
        after: A sentence to end the message with.
    """
    if found := tuple(problems):
        reason = f"{owner}: {'; '.join(map(' '.join, found))}.{after and f' {after}'}"
        raise ConfigError(reason, server_id=server_id, problems=found)


def kind_of(value: object) -> str:
    """Return the name of a value's class with its article, for the end of a sentence."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def is_count(value: object, *, least: int) -> bool:
    """Tell whether a value is a whole number of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number; True and False are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Tell whether a value is a mapping."""
    return isinstance(value, Mapping)


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is a string that can be given to a process."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def count_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield a problem unless the value is a whole number of at least 1."""
    if not is_count(value, least=1):
        yield name, f"must be a whole number of at least 1, not {value!r}"


def kind_problems(name: str, value: object, kind: type | tuple[type, ...], rule: str) -> Iterator[Problem]:
    """Yield a problem unless the value is of the kind."""
    if not isinstance(value, kind):
        yield name, f"{rule}, not {kind_of(value)}"


def instance_problems(name: str, value: object, kind: type) -> Iterator[Problem]:
    """Yield a problem unless the value is an instance of a class, which checks its own fields."""
    yield from kind_problems(name, value, kind, f"must be a {kind.__name__}")


def path_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield a problem unless the value is a path that can be given to a process."""
    if not isinstance(value, str | os.PathLike):
        yield name, f"must be a path, not {kind_of(value)}"
    elif not is_text(os.fspath(cast("str | os.PathLike[str]", value))):
        yield name, "must be an encodable string without NUL"


def string_problems(name: str, value: object, kind: str) -> Iterator[Problem]:
    """Yield a problem for each item that is no string, or one when the value is no sequence of items."""
    if not isinstance(value, tuple):
        yield name, f"must be a list or tuple of {kind}, not {kind_of(value)}"
        return
    for position, item in enumerate(cast("tuple[object, ...]", value)):
        if not is_text(item):
            yield name, f"must hold encodable strings without NUL; item {position} is none"


def environment_problems(environment: object) -> Iterator[Problem]:
    """Yield a problem for each variable that no process can be given. Values are never shown."""
    if not is_mapping(environment):
        yield "env", f"must be a mapping of names to values, not {kind_of(environment)}"
        return
    for name, value in environment.items():
        if not is_text(name) or not name or "=" in name:
            yield "env", "must have names that are strings, not empty, without '=' and NUL"
        elif not is_text(value):
            yield "env", f"must have values that are encodable strings without NUL; that of {name!r} is none"


def url_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield a problem unless the value is a URL that HTTP can be spoken to. Nothing of it is shown."""
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
        yield name, "must name a host in letters, digits, hyphens and dots, or by its address"
    elif parsed.port is not None and not 0 < parsed.port <= HIGHEST_PORT:
        yield name, f"must have a port from 1 to {HIGHEST_PORT}"


def header_problems(headers: object) -> Iterator[Problem]:
    """Yield a problem for each header that HTTP cannot carry. Values are never shown."""
    if not is_mapping(headers):
        yield "headers", f"must be a mapping of names to values, not {kind_of(headers)}"
        return
    seen = set[str]()
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):
            yield "headers", "must have names of letters, digits and hyphens; one is something else"
            continue
        if name.lower() in seen:
            yield "headers", f"must name each header once, and not {name!r} twice"
        if name.lower() in _HEADERS_OF_THE_WIRE:
            yield "headers", f"must not have {name!r}, which is decided for each request anew"
        if not isinstance(value, str) or not re.fullmatch(_HEADER_VALUE, value):
            yield "headers", f"must have values of printable ASCII, without spaces around; that of {name!r} has not"
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
    """Yield a problem unless the value is None or maps strings to values of the kind."""
    if value is None:
        return
    if not is_mapping(value):
        yield name, f"must be a mapping, not {kind_of(value)}"
    elif not all(isinstance(key, str) for key in value):
        yield name, "must have strings as keys"
    elif not all(isinstance(item, kind) for item in value.values()):
        yield name, f"must have values that are {kind.__name__}"
