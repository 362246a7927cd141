"""How many servers that one program starts may be starting at once (`launch_limits`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from types import MappingProxyType
from typing import Final

from mcp_pool.config.validation import is_count, is_mapping, kind_of
from mcp_pool.errors import Problem

_SUFFIXES: Final = (".exe", ".cmd")

LAUNCH_LIMITS: Final[Mapping[str, int | None]] = MappingProxyType(
    {
        "npx": 2,
        "npm": 2,
        "pnpm": 2,
        "yarn": 2,
        "bunx": 2,
        "uvx": 2,
        "uv": 2,
        "pipx": 2,
        "docker": 4,
        "podman": 4,
    }
)
"""The defaults, by program. Package runners that are started together corrupt the cache that they share."""


def program_of(command: str) -> str:
    """Return the name of a program without its directory and the suffix that it has on Windows."""
    name = os.path.normcase(PureWindowsPath(command).name)  # a Windows path may have slashes of either kind
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def with_defaults(limits: Mapping[str, int | None] | None) -> Mapping[str, int | None]:
    """Return limits merged over the defaults, read-only; none for None, and what is no mapping as it is."""
    if limits is None:
        return MappingProxyType({})
    return MappingProxyType({**LAUNCH_LIMITS, **limits}) if is_mapping(limits) else limits


def launch_limit_problems(limits: object) -> Iterator[Problem]:
    """Yield a problem for each entry that does not limit a program."""
    if not is_mapping(limits):
        yield "launch_limits", f"must be a mapping of programs to whole numbers, or None, not {kind_of(limits)}"
        return
    for program, slots in limits.items():
        if not isinstance(program, str) or not program or program != program_of(program):
            rule = "must give program names without directory or suffix, such as 'npx'"
            yield "launch_limits", f"{rule}, not {program!r}"
        elif slots is not None and not is_count(slots, least=1):
            yield "launch_limits", f"must hold whole numbers of at least 1, or None; that of {program!r} is {slots!r}"
