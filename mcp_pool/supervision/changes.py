"""What applying a set of servers has done."""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.frozen
class Changes:
    """What `MCPPool.apply` has done, as ids of servers in the order of the given mapping.

    Attributes:
        added: Servers that were not in the pool.
        replaced: Servers whose spec differs from the one they had.
        removed: Servers that are not among the given ones.
        unchanged: Servers that were left alone.
    """

    added: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
