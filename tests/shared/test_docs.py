"""What `help()` shows of the attributes of a class: its own, and those that its bases describe."""

from __future__ import annotations

import pytest

from mcp_pool._shared.docs import with_inherited_attributes


class Base:
    """What some classes have in common.

    Attributes:
        size: How big it is.
    """


class Plain:
    """Describes nothing."""


def test_the_attributes_of_the_bases_follow_the_docstring() -> None:
    class Derived(Plain, Base):
        """A class.

        Attributes:
            name: What it is called.
        """

    assert with_inherited_attributes(Derived) is Derived
    assert Derived.__doc__ == (
        "A class.\n\nAttributes:\n    name: What it is called.\n\nInherited attributes:\n    size: How big it is."
    )


@pytest.mark.parametrize("base", [Base, Plain])
def test_a_class_that_has_no_docstring_gets_none(base: type) -> None:
    """As under `python -OO`."""
    derived = with_inherited_attributes(type("Derived", (base,), {}))
    assert derived.__doc__ is None


def test_a_docstring_is_unchanged_if_no_base_describes_attributes() -> None:
    derived = with_inherited_attributes(type("Derived", (Plain,), {"__doc__": "A class."}))
    assert derived.__doc__ == "A class."
