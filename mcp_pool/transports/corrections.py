"""Corrections to results that the SDK would reject although most of their content can be used."""

from __future__ import annotations

from typing import Any, Final, cast

from mcp_types import methods
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

LIST_TOOLS: Final = "tools/list"
MAX_PROBLEMS: Final = 1000
"""Maximum number of problems on a page. A page with more is left to the SDK to reject: each problem costs memory."""


def complete(result: dict[str, Any], version: str) -> None:
    """Add `resultType` to a result without one, which the SDK rejects.

    A client must treat the absent field as "complete" (MCP specification 2026-07-28, Result).

    Args:
        result: Modified in place.
        version: The protocol version of the request.
    """
    if version in MODERN_PROTOCOL_VERSIONS and result.get("resultType") is None:
        result["resultType"] = "complete"


def drop_malformed_tools(result: dict[str, Any], version: str) -> list[tuple[str, str]]:
    """Remove invalid tool definitions from a page of a listing: the SDK would reject the whole page.

    Args:
        result: The result of `tools/list`. Modified in place.
        version: The protocol version of the request.

    Returns:
        The names of the tools that were removed (empty for one without a name), and what is wrong with each.
    """
    dropped: list[tuple[str, str]] = []
    for _ in range(2):  # the schema of the version, then the SDK's own
        if not (problems := _problems_of_tools(result, version)):
            break
        tools = result["tools"]
        dropped += [(_name(tools[index]), problem) for index, problem in problems.items()]
        result["tools"] = [tool for index, tool in enumerate(tools) if index not in problems]
    return dropped


def _problems_of_tools(result: dict[str, Any], version: str) -> dict[int, str]:
    """Return what is wrong with the tools of a page, by index."""
    problems: dict[int, str] = {}
    if version in KNOWN_PROTOCOL_VERSIONS:
        try:
            methods.parse_server_result(LIST_TOOLS, version, result)
        except ValidationError as error:
            if error.error_count() <= MAX_PROBLEMS:
                for detail in error.errors(include_input=False, include_url=False, include_context=False):
                    path = detail["loc"]
                    if len(path) > 1 and path[0] == "tools" and isinstance(path[1], int):
                        where = ".".join(map(str, path[2:]))
                        problems.setdefault(path[1], f"{where}: {detail['msg']}" if where else detail["msg"])
    return problems


def _name(tool: Any) -> str:
    name = cast("dict[str, Any]", tool).get("name") if isinstance(tool, dict) else None
    return name if isinstance(name, str) else ""
