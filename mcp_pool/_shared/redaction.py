"""Secrets of one server's configuration, taken out of whatever is written, raised or shown."""

from __future__ import annotations

import copy
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, final

import attrs
import httpx2
from pydantic import ValidationError

from mcp_pool._shared.exceptions import cause_of, chain
from mcp_pool._shared.guard import described, user_errors

MASK: Final = "***"
SHORTEST_SECRET: Final = 6
"""Shorter values are left alone: masking every "1" or "on" would make any text unreadable and hide nothing."""
MAX_LEARNED: Final = 16
"""Headers that were sent and that are masked: the newest, as a flow may make a new one for each request."""


@final
class RedactedError(Exception):
    """Stands in a chain of causes for an exception that cannot be shown as it is."""


@final
@attrs.define(eq=False, repr=False)
class Redactor:
    """Replaces the secret values of one server in texts and in chains of exceptions."""

    _configured: tuple[str, ...]
    _shown: str = attrs.field(default="")
    """A text that is shown anyway, so that nothing in it is a secret."""
    _learned: dict[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]], init=False)
    """The values of headers that were sent, the newest last, with the parts of each that must not be shown."""
    _secrets: tuple[str, ...] = attrs.field(init=False)
    """Longest first, so that a secret that contains another one is masked whole."""

    def __attrs_post_init__(self) -> None:
        self._sort()

    @classmethod
    def of(cls, values: Iterable[str], *, shown: str = "") -> Redactor:
        """Make one from configured values; those shorter than six characters are left out.

        Each line of a value counts as well, because what a server writes is handled line by line.

        Args:
            values: The secrets.
            shown: A text that is shown anyway.
        """
        whole = tuple(values)
        return cls((*whole, *(line.strip() for value in whole for line in value.splitlines())), shown)

    def learn(self, name: str, value: str) -> None:
        """Mask from now on a header that a request was sent with: only then is it known.

        Args:
            name: The header's name.
            value: Its value. The newest few are remembered.
        """
        parts = self._learned.pop(value, None)
        self._learned[value] = tuple(secrets_of_header(name, value)) if parts is None else parts
        if parts is None:
            if len(self._learned) > MAX_LEARNED:
                del self._learned[next(iter(self._learned))]
            self._sort()

    def _sort(self) -> None:
        values = (*self._configured, *(part for parts in self._learned.values() for part in parts))
        secrets = {value for value in values if len(value) >= SHORTEST_SECRET and value not in self._shown}
        self._secrets = tuple(sorted(secrets, key=lambda secret: (-len(secret), secret)))

    @property
    def reach(self) -> int:
        """The length of the longest secret, in bytes."""
        return max((len(secret.encode("utf-8", "surrogatepass")) for secret in self._secrets), default=0)

    def text(self, text: str) -> str:
        """Return `text` with each secret replaced by three asterisks."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def error(self, error: BaseException | None) -> BaseException | None:
        """Return `error`, or a stand-in without a chain when its text, its notes or those of a cause hold a secret.

        An error of the HTTP client is replaced by a copy, because it names its request, whose URL is secret, and does
        so again as long as it travels. One that tells of a status shows the whole URL: a stand-in tells the status.
        """
        try:
            return self._redacted(error)
        except user_errors():  # an exception class of the user's is user code: it may not copy, print or change
            return RedactedError(f"{type(error).__name__}, which cannot be shown")

    def _redacted(self, error: BaseException | None) -> BaseException | None:
        error = _without_url(error)
        for link in chain(error):
            if isinstance(link, httpx2.HTTPError):
                _forget_request(link)
            if isinstance(below := cause_of(link), httpx2.HTTPStatusError):
                link.__cause__, link.__context__ = _without_url(below), None
            notes = getattr(link, "__notes__", ())
            # Notes that are no list of strings are shown by their `repr` in a traceback.
            shown = " ".join((f"{link!s} {link!r} {notes!r} {notes!s}", *map(str, notes)))
            if isinstance(link, ValidationError):
                shown += str(link.errors())  # its text shows the input shortened, which would hide half of a secret
            if self.text(shown) != shown:
                if isinstance(error, ValidationError):
                    return RedactedError(f"{type(error).__name__}, whose input held a secret")
                return RedactedError(self.text(f"{type(error).__name__}: {error}"))
        return error


def _without_url(error: BaseException | None) -> BaseException | None:
    """Return a copy of an error of the HTTP client that can be shown; any other error as it is."""
    if isinstance(error, httpx2.HTTPStatusError):
        twin: BaseException = RedactedError(f"an HTTP request was answered with status {error.response.status_code}")
    elif isinstance(error, httpx2.RequestError):
        try:
            twin = copy.copy(error)
        except user_errors():  # a subclass of the user's may have another `__init__`
            twin = RedactedError(described(error))
    else:
        return error
    twin.__cause__ = cause_of(error)
    return twin.with_traceback(error.__traceback__)


def _forget_request(error: httpx2.HTTPError) -> None:
    """Take the request from an error, all but its method and origin: it shows the whole URL."""
    with suppress(RuntimeError):  # it has none
        error.request = httpx2.Request(error.request.method, origin(error.request.url))


def origin(url: str | httpx2.URL) -> str:
    """Return what may be shown of a URL: scheme, host and port."""
    parsed = httpx2.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii', 'replace')}"


def secrets_of_url(url: str) -> Iterator[str]:
    """Yield what of a URL must not be shown: all but scheme, host and port, whole and in parts, encoded and not."""
    parsed = httpx2.URL(url)
    if str(parsed).rstrip("/") != origin(parsed):
        yield from (url, str(parsed), str(parsed.copy_with(userinfo=b"")))
    yield from (parsed.userinfo.decode(), *parsed.userinfo.decode().split(":"))
    yield from (parsed.username, parsed.password, parsed.fragment)
    yield b64encode(f"{parsed.username}:{parsed.password}".encode()).decode()
    path, _, query = parsed.raw_path.decode().partition("?")
    yield from (parsed.raw_path.decode(), path, query, parsed.path)
    # A part of the path that is a word is as likely to be one of a message.
    yield from (part for part in (*path.split("/"), *parsed.path.split("/")) if any(map(str.isdigit, part)))
    yield from (pair.partition("=")[2] or pair for pair in query.split("&"))
    yield from (value for _, value in parsed.params.multi_items())


def secrets_of_header(name: str, value: str) -> Iterator[str]:
    """Yield what of a header must not be shown: its value, and the parts of it that are secrets of their own."""
    scheme, _, credentials = value.partition(" ")
    yield from (value, credentials, value.rpartition(" ")[2])  # without "Bearer" or "Basic"
    if scheme.lower() == "basic":
        with suppress(ValueError):  # it is none
            user, _, password = b64decode(credentials).decode(errors="replace").partition(":")
            yield from (user, password)
    if name.lower() == "cookie":
        yield from (cookie.partition("=")[2].strip().strip('"') for cookie in value.split(";"))


def secrets_of_basic_auth(auth: httpx2.BasicAuth) -> Iterator[str]:
    """Yield the user's name, the password, and both as they are sent."""
    request = next(auth.auth_flow(httpx2.Request("GET", "http://nowhere.invalid")))
    yield from secrets_of_header("authorization", request.headers["authorization"])
