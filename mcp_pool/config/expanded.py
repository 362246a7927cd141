"""Text that contains secret values, which came in by variables of a configuration file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self, final


@final
class Expanded(str):  # noqa: SLOT000  # a string with slots could not be pickled
    """A text and the secret values in it. Otherwise an ordinary string.

    Args:
        text: The text.
        secrets: The values.
    """

    secrets: tuple[str, ...]

    def __new__(cls, text: str, secrets: Iterable[str]) -> Self:
        """Make it."""
        made = super().__new__(cls, text)
        made.secrets = tuple(secrets)
        return made

    def __reduce__(self) -> tuple[type[Expanded], tuple[str, tuple[str, ...]]]:
        return Expanded, (str(self), self.secrets)


def secrets_in(values: Iterable[object]) -> Iterator[str]:
    """Yield the secret values in those of these values that contain some."""
    for value in values:
        if isinstance(value, Expanded):
            yield from value.secrets
