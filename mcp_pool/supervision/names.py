"""Catalog names: valid for every model API, and independent of which other servers are in the pool."""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_LENGTH: Final = 64
"""The strictest limit among the model APIs."""
_SUFFIX_LENGTH: Final = 9
"""The length of an underscore and eight hex digits."""
_INVALID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_SUFFIXED: Final = re.compile(r"_[0-9a-f]{8}\Z")


def catalog_name(server_id: str, name: str) -> str:
    """Return the name of a server's tool in the catalog.

    It is `{server_id}__{name}`, changed if necessary to match `^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$`. A name that was
    changed, or that another id and name could share, ends in an underscore and eight hex digits of the SHA-256 of both.
    The result depends only on the two arguments.

    Args:
        server_id: The server's id in the pool.
        name: The server's own name for the tool.
    """
    plain = f"{server_id}__{name}"
    clean = _clean(plain)
    ambiguous = "__" in server_id or server_id.endswith("_") or _SUFFIXED.search(plain)
    if clean == plain and len(clean) <= MAX_LENGTH and not ambiguous:
        return clean
    digest = hashlib.sha256(f"{server_id}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{clean[: MAX_LENGTH - _SUFFIX_LENGTH]}_{digest[: _SUFFIX_LENGTH - 1]}"


def may_belong_to(name: str, server_id: str) -> bool:
    """Tell whether a name may be the catalog name of one of a server's tools."""
    return name.startswith(_clean(f"{server_id}__")[: MAX_LENGTH - _SUFFIX_LENGTH])


def _clean(name: str) -> str:
    """Replace every character that some model API rejects."""
    clean = _INVALID.sub("_", name)
    return clean if re.match(r"[a-zA-Z_]", clean) else "_" + clean
