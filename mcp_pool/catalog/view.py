"""One view of the catalog, as it was at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, final

import attrs

_KeyT = TypeVar("_KeyT")
_EntryT = TypeVar("_EntryT")


@final
@attrs.frozen(eq=False, repr=False)
class CatalogView(Mapping[_KeyT, _EntryT], Generic[_KeyT, _EntryT]):
    """A read-only mapping of what all servers offer of one kind. It never changes: a changed catalog is another view.

    Entries are in the order in which their servers were first added to the pool, and for each server in the order in
    which its names were first seen. So reconnects and new listings do not reorder it.

    Attributes:
        version: Grows with every change. Views of one kind that a pool returns are equal if their versions are.
    """

    version: int
    _entries: Mapping[_KeyT, _EntryT]

    def __getitem__(self, key: _KeyT) -> _EntryT:
        return self._entries[key]

    def __iter__(self) -> Iterator[_KeyT]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<CatalogView version {self.version}: {', '.join(map(repr, self._entries)) or 'empty'}>"
