"""Where the hosts keep their servers, and what is special about the entries of each.

Told apart by content, as files are copied from one host to another under any name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, cast, final

import attrs

from mcp_pool.config.files.document import Document, Keys
from mcp_pool.config.files.mistakes import Mistake
from mcp_pool.config.validation import is_mapping

OURS: Final = "mcp_pool"
"""The key of what only this library has, for one server and for the whole file."""

IGNORED: Final = frozenset(
    {
        "alwaysAllow",
        "autoApprove",
        "authProviderType",
        "description",
        "dev",
        "disabledTools",
        "gallery",
        "icon",
        "iconUrl",
        "name",
        "oauth",
        "sandbox",
        "targetAudience",
        "title",
        "trust",
        "version",
    }
)
"""Keys of other hosts that say nothing about how to connect."""


@final
@attrs.frozen(eq=False)
class RawEntry:
    """One server of a file, in the words of most hosts."""

    server_id: str
    """Its id."""
    keys: Keys
    """Where its entry is."""
    values: Mapping[str, Any]
    """Its values."""
    renamed: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """For each key that another host calls differently, its name in the file."""

    def at(self, *keys: str | int) -> Keys:
        """Return where a value is in the file."""
        first, *rest = keys
        name = self.renamed.get(str(first), first)
        if name != first and rest and isinstance(rest[0], int):
            rest[0] += 1  # the program itself comes before its arguments
        return (*self.keys, name, *rest)


def entries_of(document: Document) -> tuple[list[RawEntry], list[Mistake]]:
    """Return the servers of a file, and what is wrong with the file as a whole.

    Args:
        document: The file.
    """
    data = document.data
    if not isinstance(data, Mapping):
        return [], [Mistake((), "must be an object with the key mcpServers, servers or mcp")]
    entries: list[RawEntry] = []
    mistakes: list[Mistake] = []
    found = list(_server_objects(cast("Mapping[str, Any]", data)))
    if not found:
        closest = ", ".join(map(str, islice(cast("Mapping[str, Any]", data), 10))) or "nothing"
        mistakes.append(Mistake((), f"must have the key mcpServers, servers or mcp, but has {closest}"))
    for keys, is_opencode in found:
        servers = document.value(keys)
        if not is_mapping(servers):
            mistakes.append(Mistake(keys, "must be an object that maps ids to servers"))
            continue
        for server_id, values in servers.items():
            place = (*keys, server_id)
            if not isinstance(server_id, str) or not server_id or not server_id.isprintable():
                mistakes.append(Mistake(place, "must have a non-empty printable id"))
            elif any(entry.server_id == server_id for entry in entries):
                mistakes.append(Mistake(place, "has the id of another server in this file"))
            elif not isinstance(values, Mapping):
                mistakes.append(Mistake(place, "must be an object"))
            else:
                entry = RawEntry(server_id, place, cast("Mapping[str, Any]", values))
                entries.append(_from_opencode(entry) if is_opencode else entry)
    return entries, mistakes


def _server_objects(data: Mapping[str, Any]) -> Iterator[tuple[Keys, bool]]:
    """Yield where the objects with servers are, and whether each is in the form of opencode."""
    for key in ("mcpServers", "servers"):
        if key in data:
            yield (key,), False
    mcp: object = data.get("mcp")
    if is_mapping(mcp) and is_mapping(mcp.get("servers")):  # the settings of VS Code
        yield ("mcp", "servers"), False
    elif "mcp" in data:
        yield ("mcp",), True


def _from_opencode(entry: RawEntry) -> RawEntry:
    """Translate an entry of opencode: a command is one list, and variables are in `environment`."""
    values = dict(entry.values)
    renamed: dict[str, str] = {}
    if values.get("type") in ("local", "remote"):
        del values["type"]
    command = values.get("command")
    if isinstance(command, list):
        first, *rest = cast("list[object]", command) or [""]
        values["command"], values["args"] = first, rest
        renamed["args"] = "command"
    if "environment" in values:
        values["env"] = values.pop("environment")
        renamed["env"] = "environment"
    return RawEntry(entry.server_id, entry.keys, values, renamed)
