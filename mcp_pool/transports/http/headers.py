"""Headers that a function of the user returns for each request: user code, whose exceptions fail only this request."""

from __future__ import annotations

from collections.abc import Collection
from inspect import isawaitable
from typing import Final, cast, final

import httpx2

from mcp_pool._shared.exceptions import cause_of, plain
from mcp_pool._shared.guard import contained, printable
from mcp_pool.config.servers import HeadersFunction
from mcp_pool.config.validation import header_problems, is_mapping
from mcp_pool.errors import ConfigError

PROTOCOL_HEADERS: Final = "mcp_pool_protocol_headers"
"""The request extension with the names, in lower case, of the headers that the protocol sets: no function may replace
them."""


@final
class HeadersFailed(Exception):
    """A headers function raised, or returned something invalid. The cause is its exception, or a `ConfigError`."""


async def add_headers(request: httpx2.Request, function: HeadersFunction) -> Collection[str]:
    """Call a headers function, and add its headers to a request, except those that the protocol sets.

    Args:
        request: The request, which has not been sent.
        function: User code.

    Returns:
        The names of the added headers.

    Raises:
        HeadersFailed: The function failed.
    """
    try:
        returned = await contained(_call, function)
    except Exception as error:  # noqa: BLE001  # it fails this request only
        cause = printable(plain(error))
        raise HeadersFailed(f"its headers function raised {type(cause).__name__}") from cause
    if problems := tuple(header_problems(returned)):
        what = f"headers function returned an invalid value: {'; '.join(map(' '.join, problems))}"
        raise HeadersFailed(f"its {what}") from ConfigError(f"A {what}.", problems=problems)
    headers, protocol = cast("dict[str, str]", returned), request.extensions.get(PROTOCOL_HEADERS, ())
    added = {name: value for name, value in headers.items() if name.lower() not in protocol}
    request.headers.update(added)
    return added


def explained(error: Exception) -> tuple[str, BaseException | None]:
    """Return what to say about an exception from sending a request, and its cause."""
    return (str(error), cause_of(error)) if isinstance(error, HeadersFailed) else (type(error).__name__, error)


async def _call(function: HeadersFunction) -> object:
    """Return the result of a headers function, with a mapping copied: reading the user's mapping runs user code."""
    returned: object = function()
    if isawaitable(returned):
        returned = await returned
    return dict(returned) if is_mapping(returned) else returned
