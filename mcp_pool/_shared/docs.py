"""Docstrings: what the bases of a class say of its attributes, for `help()`, which does not show it otherwise."""

from __future__ import annotations

from inspect import cleandoc
from typing import Final, TypeVar

HEADING: Final = "Attributes:\n"
"""What the attributes in a docstring follow; nothing may follow them in that of a base."""

_T = TypeVar("_T")


def with_inherited_attributes(cls: type[_T]) -> type[_T]:
    """Add to a class's docstring the attributes that those of its bases describe; a class decorator."""
    described = [cleandoc(base.__doc__ or "").partition(HEADING)[2] for base in cls.__mro__[1:]]
    if cls.__doc__ and any(described):  # there are no docstrings under `python -OO`
        cls.__doc__ = "\n".join((cleandoc(cls.__doc__), "", "Inherited attributes:", *filter(None, described)))
    return cls
