"""Masks the secrets of one server's configuration in everything that is logged, raised or shown."""

from __future__ import annotations

import copy
import json
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
"""Minimum length of a masked value. Masking every "1" or "on" would make texts unreadable and hide nothing."""
MAX_LEARNED: Final = 64
"""How many header values from requests are masked, the newest: user code may make new ones for each request."""
MAX_QUOTE: Final = 120
"""Maximum length of a quotation, in characters."""


@final
class RedactedError(Exception):
    """Replaces an exception that cannot be shown, in a chain of causes."""


@final
@attrs.define(eq=False, repr=False)
class Redactor:
    """Masks the secret values of one server in texts and in chains of exceptions."""

    _configured: tuple[str, ...]
    _shown: str = attrs.field(default="")
    """A text that is always shown; nothing in it is a secret."""
    _learned: dict[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]], init=False)
    """The header values from requests, newest last, with the secret parts of each."""
    _secrets: tuple[str, ...] = attrs.field(init=False)
    """All secrets, longest first: one that contains another must be masked as a whole."""

    def __attrs_post_init__(self) -> None:
        self._sort()

    @classmethod
    def of(cls, values: Iterable[str], *, shown: str = "") -> Redactor:
        """Make a redactor for configured values. Values shorter than `SHORTEST_SECRET` are not masked.

        Each line of a value is masked as well, because the output of a server is processed line by line.

        Args:
            values: The secrets.
            shown: A text that is always shown; nothing in it is a secret.
        """
        whole = tuple(values)
        return cls((*whole, *(line.strip() for value in whole for line in value.splitlines())), shown)

    def learn(self, name: str, value: str) -> None:
        """Mask the value of a header from now on. Only the newest `MAX_LEARNED` values are remembered.

        Args:
            name: The header's name.
            value: Its value, as a request was sent with it.
        """
        parts = self._learned.pop(value, None)
        self._learned[value] = tuple(secrets_of_header(name, value)) if parts is None else parts
        if parts is None:
            if len(self._learned) > MAX_LEARNED:
                del self._learned[next(iter(self._learned))]
            self._sort()

    def _sort(self) -> None:
        values = (*self._configured, *(part for parts in self._learned.values() for part in parts))
        secrets = {
            spelling
            for value in values
            if len(value) >= SHORTEST_SECRET and value not in self._shown
            for spelling in (value, *_as_json(value))
        }
        self._secrets = tuple(sorted(secrets, key=lambda secret: (-len(secret), secret)))

    @property
    def reach(self) -> int:
        """The length of the longest secret, in bytes."""
        return max((len(secret.encode("utf-8", "surrogatepass")) for secret in self._secrets), default=0)

    def text(self, text: str) -> str:
        """Return `text` with each secret replaced by `MASK`."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def quote(self, said: str | bytes) -> str:
        """Return the beginning of what a server sent, in quotation marks, on one line, with secrets masked.

        Args:
            said: What it sent. Bytes that are not UTF-8 and control characters are escaped.
        """
        enough = 4 * MAX_QUOTE + self.reach  # includes the whole of any secret that starts within the quotation
        text = said[:enough]
        if isinstance(text, bytes):
            text = text.decode("utf-8", "backslashreplace")
        cut = min(len(text), MAX_QUOTE)
        while (before := min(self._beginnings(text, cut), default=cut)) < cut:
            cut = before
        shown = "".join(sign if sign.isprintable() else _escaped(sign) for sign in self.text(text[:cut]))
        is_cut = cut < len(text) or enough < len(said) or len(shown) > 2 * MAX_QUOTE
        return f"'{shown[: 2 * MAX_QUOTE]}{'…' if is_cut else ''}'"

    def _beginnings(self, text: str, cut: int) -> Iterator[int]:
        """Yield the positions of secrets that a cut would split."""
        for secret in self._secrets:
            begin = text.find(secret, max(0, cut - len(secret) + 1), cut + len(secret) - 1)
            if begin >= 0:
                yield begin

    def error(self, error: BaseException | None) -> BaseException | None:
        """Return `error`, or a `RedactedError` without causes if its text or notes, or those of a cause, hold a secret.

        An error of httpx2 is replaced by a copy without its request, whose URL is secret: httpx2 sets the request of
        the original again while that is being raised. An `HTTPStatusError` has the whole URL in its text, and is
        replaced by an error with the status only.
        """
        try:
            return self._redacted(error)
        except user_errors():  # a user's exception may fail to be copied, rendered or changed
            return RedactedError(f"{type(error).__name__}, which cannot be shown")

    def _redacted(self, error: BaseException | None) -> BaseException | None:
        error = _without_url(error)
        for link in chain(error):
            if isinstance(link, httpx2.HTTPError):
                _forget_request(link)
            if isinstance(below := cause_of(link), httpx2.HTTPStatusError):
                link.__cause__, link.__context__ = _without_url(below), None
            notes = getattr(link, "__notes__", ())
            # A traceback shows the `repr` of notes that are not a list of strings.
            shown = " ".join((f"{link!s} {link!r} {notes!r} {notes!s}", *map(str, notes)))
            if isinstance(link, ValidationError):
                shown += str(link.errors())  # its text shortens the input, and half a secret would not be found
            if self.text(shown) != shown:
                if isinstance(error, ValidationError):
                    return RedactedError(f"{type(error).__name__}, whose input contained a secret")
                return RedactedError(self.text(f"{type(error).__name__}: {error}"))
        return error


def _as_json(value: str) -> Iterator[str]:
    """Yield the forms that a value may have in a JSON string."""
    for ascii_only in (True, False):
        spelled = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield from (spelled, spelled.replace("/", "\\/"))


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def _without_url(error: BaseException | None) -> BaseException | None:
    """Return a copy of an httpx2 error that can be shown; any other error as it is."""
    if isinstance(error, httpx2.HTTPStatusError):
        twin: BaseException = RedactedError(f"an HTTP request was answered with status {error.response.status_code}")
    elif isinstance(error, httpx2.RequestError):
        try:
            twin = copy.copy(error)
        except user_errors():  # a user's subclass may have another `__init__`
            twin = RedactedError(described(error))
    else:
        return error
    twin.__cause__ = cause_of(error)
    return twin.with_traceback(error.__traceback__)


def _forget_request(error: httpx2.HTTPError) -> None:
    """Reduce the request of an error to its method and origin: the rest of its URL is secret."""
    with suppress(RuntimeError):  # it has no request
        error.request = httpx2.Request(error.request.method, origin(error.request.url))


def origin(url: str | httpx2.URL) -> str:
    """Return the part of a URL that may be shown: scheme, host and port."""
    parsed = httpx2.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii', 'replace')}"


def secrets_of_url(url: str) -> Iterator[str]:
    """Yield the secrets in a URL: all but scheme, host and port, as a whole and in parts, encoded and decoded."""
    parsed = httpx2.URL(url)
    if str(parsed).rstrip("/") != origin(parsed):
        yield from (url, str(parsed), str(parsed.copy_with(userinfo=b"")))
    yield from (parsed.userinfo.decode(), *parsed.userinfo.decode().split(":"))
    yield from (parsed.username, parsed.password, parsed.fragment)
    yield b64encode(f"{parsed.username}:{parsed.password}".encode()).decode()
    path, _, query = parsed.raw_path.decode().partition("?")
    yield from (parsed.raw_path.decode(), path, query, parsed.path)
    # Only parts of the path with a digit: an ordinary word may occur in any message.
    yield from (part for part in (*path.split("/"), *parsed.path.split("/")) if any(map(str.isdigit, part)))
    yield from (pair.partition("=")[2] or pair for pair in query.split("&"))
    yield from (value for _, value in parsed.params.multi_items())


def secrets_of_header(name: str, value: str) -> Iterator[str]:
    """Yield the secrets in a header: its value, and the parts of it that are secrets in themselves."""
    scheme, _, credentials = value.partition(" ")
    yield from (value, credentials, value.rpartition(" ")[2])  # without "Bearer" or "Basic"
    if scheme.lower() == "basic":
        with suppress(ValueError):  # not base64
            user, _, password = b64decode(credentials).decode(errors="replace").partition(":")
            yield from (user, password)
    if name.lower() == "cookie":
        yield from (cookie.partition("=")[2].strip().strip('"') for cookie in value.split(";"))


def secrets_of_basic_auth(auth: httpx2.BasicAuth) -> Iterator[str]:
    """Yield the user name, the password, and both as they are sent."""
    request = next(auth.auth_flow(httpx2.Request("GET", "http://nowhere.invalid")))
    yield from secrets_of_header("authorization", request.headers["authorization"])
