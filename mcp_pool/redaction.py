"""What must not be seen: the secret values of one server's configuration, taken out of whatever is shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

import attrs
from pydantic import ValidationError

MASK: Final = "***"
SHORTEST_SECRET: Final = 6
"""Shorter values are left alone: masking every "1" or "on" would make any text unreadable and hide nothing."""


@final
class RedactedError(Exception):
    """Stands in a chain of causes for an exception whose text held a secret."""


@final
@attrs.frozen
class Redactor:
    """Replaces the secret values of one server in texts and in chains of exceptions."""

    _secrets: tuple[str, ...] = attrs.field(repr=False)
    """Longest first, so that a secret that contains another one is masked whole."""

    @classmethod
    def of(cls, values: Iterable[str]) -> Redactor:
        """Make one from configured values, of which those shorter than six characters are left out.

        Each line of a value counts as well: what a server writes is looked at line by line.
        """
        whole = tuple(values)
        lines = (line.strip() for value in whole for line in value.splitlines())
        secrets = {secret for secret in (*whole, *lines) if len(secret) >= SHORTEST_SECRET}
        return cls(tuple(sorted(secrets, key=lambda secret: (-len(secret), secret))))

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
        """Return `error`, or a stand-in without a chain when its text or a cause's text holds a secret."""
        link, seen = error, set[int]()
        while link is not None and id(link) not in seen:
            seen.add(id(link))
            shown = f"{link!s} {link!r}"
            if isinstance(link, ValidationError):
                shown += str(link.errors())  # its text shows the input shortened, which would hide half of a secret
            if self.text(shown) != shown:
                if isinstance(error, ValidationError):
                    return RedactedError(f"{type(error).__name__}, whose input held a secret")
                return RedactedError(self.text(f"{type(error).__name__}: {error}"))
            link = link.__cause__ or link.__context__
        return error
