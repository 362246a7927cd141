"""The text of a configuration file, its values, and their places in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

import attrs

if TYPE_CHECKING:
    from tree_sitter import Node

Keys: TypeAlias = tuple[str | int, ...]
"""Keys and positions that lead to a value."""

_STRING: Final = r'"(?:\\.|[^"\\\n])*"'
_COMMENT: Final = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA: Final = re.compile(rf"{_STRING}|,(?=\s*[}}\]])")


@final
@attrs.frozen
class Place:
    """A place in a file, counted from 1."""

    line: int
    column: int
    length: int = 1
    """How many characters of the line it covers."""


@final
class SyntaxMistake(Exception):
    """A text is not JSON.

    Args:
        what: What is wrong.
        place: Where.
    """

    def __init__(self, what: str, place: Place) -> None:
        super().__init__(what)
        self.place = place


@final
@attrs.frozen(eq=False)
class Document:
    """One file, or a mapping that a program passed instead."""

    name: str
    """How messages call it."""
    data: Any
    """Its value."""
    text: str = ""
    """Its text, without comments and trailing commas, each of which is replaced by spaces."""
    folder: Path = attrs.field(factory=Path.cwd)
    """Where relative paths in it start."""

    @classmethod
    def parse(cls, name: str, text: str, folder: Path) -> Document:
        """Parse a text. Comments and trailing commas, which editors allow in such files, are accepted.

        Raises:
            SyntaxMistake: It is not JSON.
        """
        plain = _TRAILING_COMMA.sub(_blank, _COMMENT.sub(_blank, text))
        try:
            return cls(name, json.loads(plain), plain, folder)
        except json.JSONDecodeError as error:
            mistake = SyntaxMistake(error.msg, Place(error.lineno, error.colno))
        except ValueError:  # `int` refuses it
            mistake = SyntaxMistake("A number has thousands of digits", Place(1, 1))
        except RecursionError:
            mistake = SyntaxMistake("Values are nested too deeply", Place(1, 1))
        raise mistake

    def value(self, keys: Keys) -> Any:
        """Return the value at a place."""
        value = self.data
        for key in keys:
            value = value[key]
        return value

    def place(self, keys: Keys, *, is_key: bool = False) -> Place | None:
        """Return where a value is, or what it should be in; None if that is not known.

        It takes the extra `config`, whose parser knows the places of values.

        Args:
            keys: The keys that lead to it.
            is_key: Whether to return the place of its key instead.
        """
        try:
            import tree_sitter_json  # noqa: PLC0415  # an extra
            from tree_sitter import Language, Parser  # noqa: PLC0415  # likewise
        except ImportError:
            return None
        encoded = self.text.encode()
        root = Parser(Language(tree_sitter_json.language())).parse(encoded).root_node
        node = found = next(iter(root.named_children), None)
        for key in keys:
            node = None if node is None else _child(node, key)
            if node is None:
                break
            found = node
        if found is None or not keys:
            return None
        if is_key and node is not None and node.parent is not None:
            found = node.parent.child_by_field_name("key") or found
        row = found.start_point.row
        line = encoded.split(b"\n")[row]
        begin = len(line[: found.start_point.column].decode())
        end_column = found.end_point.column if found.end_point.row == row else len(line)
        return Place(row + 1, begin + 1, max(1, len(line[:end_column].decode()) - begin))

    def masked_line(self, number: int) -> str:
        """Return a line with the content of each value that is a string masked; keys are shown."""
        line = self.text.split("\n")[number - 1].rstrip("\r")
        return re.sub(rf"({_STRING})(\s*:)?", _mask, line)


def _blank(match: re.Match[str]) -> str:
    """Return a string unchanged, and anything else as spaces, so that all places stay the same."""
    found = match.group()
    return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)


def _mask(match: re.Match[str]) -> str:
    string, colon = match.groups()
    return f"{string}{colon}" if colon else f'"{"*" * (len(string) - 2)}"'


def _child(node: Node, key: str | int) -> Node | None:
    """Return the value of a key, of which the last one counts, or at a position."""
    if isinstance(key, int):
        return node.named_children[key] if key < len(node.named_children) else None
    values = [value for name, value in _pairs(node) if name == key]
    return values[-1] if values else None


def _pairs(node: Node) -> Iterator[tuple[str, Node]]:
    for pair in cast("Sequence[Node]", node.named_children if node.type == "object" else ()):
        name, value = pair.child_by_field_name("key"), pair.child_by_field_name("value")
        # The grammar does not know all numbers of JSON (1e+16): what is around such a one has no place.
        if name is not None and value is not None and name.text is not None:
            yield json.loads(name.text), value
