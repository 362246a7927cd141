"""Names in the catalog: legal for every model API, and independent of which other servers are present."""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_LENGTH: Final = 64
"""The strictest limit among the model APIs."""
_SUFFIX_LENGTH: Final = 9
"""The length of an underscore and eight hex digits."""
_ILLEGAL: Final = re.compile(r"[^a-zA-Z0-9_-]")
_SUFFIXED: Final = re.compile(r"_[0-9a-f]{8}\Z")


def catalog_name(server_id: str, name: str) -> str:
    """Return the name under which a server's tool is listed.

    It is `{server_id}__{name}`, made to match `^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$`. A name that had to be changed for that,
    or that another pair could have as well, ends in an underscore and eight hex digits of the SHA-256 of both. So it
    depends on nothing but the two arguments.

    Args:
        server_id: The server's id in the pool.
        name: The tool's name as its server gives it.
    """
    plain = f"{server_id}__{name}"
    clean = _clean(plain)
    ambiguous = "__" in server_id or server_id.endswith("_") or _SUFFIXED.search(plain)
    if clean == plain and len(clean) <= MAX_LENGTH and not ambiguous:
        return clean
    digest = hashlib.sha256(f"{server_id}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{clean[: MAX_LENGTH - _SUFFIX_LENGTH]}_{digest[: _SUFFIX_LENGTH - 1]}"


def may_belong_to(name: str, server_id: str) -> bool:
    """Tell whether a name may be the catalog name of some tool of a server."""
    return name.startswith(_clean(f"{server_id}__")[: MAX_LENGTH - _SUFFIX_LENGTH])


def _clean(name: str) -> str:
    """Return a name without anything that some model API refuses."""
    clean = _ILLEGAL.sub("_", name)
    return clean if re.match(r"[a-zA-Z_]", clean) else "_" + clean
