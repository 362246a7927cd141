"""Values of a wrong type, and unknown keys, in the words of somebody who edits the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from mcp_pool.config.files.document import Keys
from mcp_pool.config.files.mistakes import Mistake
from mcp_pool.config.files.model import Health, Ours, OursForAll, Restart

SIMILAR: Final = 0.8
"""How similar an unknown key must be to a known one to count as a misspelling of it (difflib's ratio)."""
_NAMES: Final = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "finite_number": "a finite number",
}
"""What was expected, for each kind of error of pydantic's."""
_MODELS: Final[tuple[type[BaseModel], ...]] = (Ours, OursForAll, Restart, Health)
_MODEL_NAMES: Final = frozenset(model.__name__ for model in _MODELS)
_FIELDS: Final = sorted({name for model in _MODELS for name in model.model_fields})


def type_mistakes(error: ValidationError, values: Any, keys: Keys) -> Iterator[Mistake]:
    """Yield what pydantic says is wrong, with the place and what was found there, but never a value.

    Args:
        error: The error.
        values: What was validated.
        keys: Where that is in the file.
    """
    expected: dict[Keys, list[str]] = {}
    for detail in error.errors(include_input=False, include_url=False):
        # Of a union, pydantic names the branch: the class, or a type with brackets.
        place = tuple(key for key in detail["loc"] if isinstance(key, int) or not (key in _MODEL_NAMES or "[" in key))
        if detail["type"] == "extra_forbidden":
            what = f"is not known{did_you_mean(str(place[-1]), _FIELDS)}"
        elif detail["type"] == "literal_error":
            what = f"must be {str(detail.get('ctx', {}).get('expected')).replace(chr(39), chr(34))}"
        else:
            what = f"must be {_NAMES.get(detail['type'], detail['msg'])}"
        expected.setdefault(place, []).append(what)
    for place, sentences in expected.items():
        first, *others = dict.fromkeys(sentences)
        joined = " or ".join((first, *(other.removeprefix("must be ") for other in others)))
        found = "" if first.startswith("is not known") else f", not {kind_of_json(_value(values, place))}"
        yield Mistake((*keys, *place), f"{joined}{found}", is_key=not found)


def kind_of_json(value: object) -> str:
    """Return what a JSON value is, without showing it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case _:
            return "a list"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return a question that offers the closest known key; empty if none is close."""
    folded = {name.lower().replace("_", ""): name for name in known}
    close = difflib.get_close_matches(key.lower().replace("_", ""), folded, n=1, cutoff=SIMILAR)
    return f". Did you mean {folded[close[0]]!r}?" if close else ""


def _value(values: Any, keys: Keys) -> Any:
    for key in keys:
        values = values[key]
    return values
