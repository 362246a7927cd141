"""What is wrong in a configuration file, and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import attrs

from mcp_pool.config.files.document import Document, Keys, Place
from mcp_pool.errors import ConfigError, Problem


@final
@attrs.frozen
class Mistake:
    """One thing that is wrong."""

    keys: Keys
    """Where it is."""
    what: str
    """What is wrong and how to fix it: the end of a sentence that begins with the place."""
    is_key: bool = False
    """Whether the key is wrong, and not its value."""

    @property
    def path(self) -> str:
        """The keys in one word."""
        words = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.keys)
        return "".join(words).removeprefix(".")

    @property
    def problem(self) -> Problem:
        """The mistake as `ConfigError.problems` holds it."""
        return self.path, self.what


def config_error(document: Document, mistakes: Sequence[Mistake], server_id: str | None = None) -> ConfigError:
    """Return one error for mistakes in a file.

    Args:
        document: The file.
        mistakes: At least one.
        server_id: The server that they are about; None for the whole file.
    """
    first, *others = mistakes
    more = (
        f" There {'is 1 more mistake' if len(others) == 1 else f'are {len(others)} more mistakes'}." if others else ""
    )
    who = "" if server_id is None else f"Server {server_id!r}: "
    return ConfigError(
        f"{who}{_where(document, first)}: {sentence(first)}{more}",
        server_id=server_id,
        problems=[mistake.problem for mistake in mistakes],
        details="\n".join(described(document, mistakes)),
    )


def described(document: Document, mistakes: Iterable[Mistake]) -> Iterable[str]:
    """Yield the lines of a message in the manner of a compiler's."""
    for mistake in mistakes:
        yield f"{_where(document, mistake)}: {sentence(mistake)}"
        if (place := document.place(mistake.keys, is_key=mistake.is_key)) is not None:
            yield from excerpt(document, place)


def excerpt(document: Document, place: Place) -> Iterable[str]:
    """Yield a line of a file, with the content of values masked, and a marker under the place."""
    number = f"{place.line:>5} | "
    line = document.masked_line(place.line)
    shown = "".join(sign if sign.isprintable() or sign == "\t" else " " for sign in line)
    yield f"{number}{shown}"
    indent = "".join("\t" if sign == "\t" else " " for sign in shown[: place.column - 1])
    yield f"{' ' * (len(number) - 2)}| {indent}{'^' * min(place.length, max(1, len(shown) - place.column + 1))}"


def sentence(mistake: Mistake) -> str:
    """Return a mistake as a sentence."""
    text = f"{mistake.path} {mistake.what}".lstrip()
    return text if text.endswith("?") else f"{text}."


def _where(document: Document, mistake: Mistake) -> str:
    place = document.place(mistake.keys, is_key=mistake.is_key)
    return document.name if place is None else f"{document.name}:{place.line}:{place.column}"
