"""What a response with an error status, or a redirect that is not followed, says to the operator."""

from __future__ import annotations

import html
import re
from typing import Final

import httpx2

from mcp_pool._shared.redaction import origin
from mcp_pool.errors import HttpStatusError
from mcp_pool.transports.channel import Channel, Failure
from mcp_pool.transports.http.responses import retry_after

MAX_TEXT: Final = 16384
"""The longest body in bytes that is made readable."""

_TITLE: Final = re.compile(r"<title[^<>]*>\s*([^<\s][^<]*)<", re.IGNORECASE)
# The patterns stop at the next "<": their time grows only linearly with the page.
_HIDDEN: Final = re.compile(r"<(script|style)\b.*?(?:</\1[^<>]*>?|$)", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<[^<>]*>?")
_SCHEME: Final = re.compile(r"[\w-]+(?=[\s,]|$)", re.ASCII)
_ERROR: Final = re.compile(r"(?<![\w-])error\s*=\s*(\"?)([\w.-]+)\1(?=[\s,]|$)", re.ASCII)


def readable(body: bytes, kind: str) -> bytes:
    """Return what is worth quoting of a body, on one line: the title of a web page, or else its words.

    A body that is too long is cut, perhaps within a secret, so nothing of such a page is used except a whole title.

    Args:
        body: The whole body.
        kind: Its content type.
    """
    text, is_whole = body[:MAX_TEXT].decode("utf-8", "backslashreplace"), len(body) <= MAX_TEXT
    if "html" in kind:
        title = _TITLE.search(text)
        words = _TAG.sub("\n", _HIDDEN.sub("", text)) if is_whole else ""
        text = html.unescape(title[1] if title else words)
    elif not is_whole:
        return body
    # Only lines are joined: a secret in a header may contain several spaces, but no line break.
    return " ".join(filter(None, map(str.strip, text.splitlines()))).encode()


def error_status(response: httpx2.Response, channel: Channel, body: bytes = b"", did: str = "answered") -> Failure:
    """Return the failure for an error status, or for a redirect that is not followed.

    Args:
        response: The response.
        channel: Its channel, which masks secrets.
        body: What is worth quoting of its body.
        did: What the server did with that status, as a phrase that follows its name.
    """
    status, seconds = response.status_code, retry_after(response)
    if response.next_request is not None:
        return _redirect(response.request.url, response.next_request.url, status)
    quoted = channel.quote(body) if body else ""
    challenge = _challenge(response.headers.get("www-authenticate", ""))
    authenticate = channel.quote(challenge.encode())[1:-1] if challenge else ""
    wait = "" if seconds is None else f"Retry-After: {round(seconds, 1):g} s"
    details = ", ".join(filter(None, (wait, authenticate, quoted)))
    what = f"{did} with HTTP status {status}"
    error = HttpStatusError(
        f"The server {what}.",
        status=status,
        retry_after=seconds,
        excerpt=quoted[1:-1] or None,
        authenticate=authenticate or None,
    )
    return Failure(f"{what}{details and f' ({details})'}", status=status, cause=error)


def _redirect(here: httpx2.URL, there: httpx2.URL, status: int) -> Failure:
    """Return the failure for a redirect that is not followed, without the parts of its URL that may be secret."""
    if origin(here) == origin(there):
        what = "redirects to another path of the same origin, which is not followed"
        advice = "Correct the path in its URL: often, a slash at the end is missing or superfluous."
    else:
        what = f"redirects to {origin(there)}, which is not followed"
        advice = "If it has moved there, correct its URL: credentials are not sent to another origin."
    return Failure(what, status=status, advice=advice)


def _challenge(header: str) -> str:
    """Return the scheme and the error in a `WWW-Authenticate` header: "Bearer error=invalid_token"."""
    scheme, error = _SCHEME.match(header.strip()), _ERROR.search(header)
    return " ".join(part for part in (scheme and scheme[0], error and f"error={error[2]}") if part)
