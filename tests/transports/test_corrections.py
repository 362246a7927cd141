"""What is set right in a result before the SDK, which is stricter than the specification, refuses it."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import methods
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS

from mcp_pool.transports import corrections
from mcp_pool.transports.corrections import complete, drop_malformed_tools

GOOD: dict[str, Any] = {"name": "good", "inputSchema": {"type": "object"}}
MODERN: dict[str, Any] = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
MALFORMED: list[tuple[Any, str, str]] = [
    ({"name": "bad"}, "bad", "inputSchema: Field required"),
    ({"name": "bad", "inputSchema": {"type": "array"}}, "bad", "inputSchema.type: Input should be 'object'"),
    ({"name": "bad", "inputSchema": None}, "bad", "inputSchema: Input should be a valid dictionary"),
    ({**GOOD, "name": "bad", "annotations": []}, "bad", "annotations: Input should be"),
    ({**GOOD, "name": 5}, "", "name: Input should be a valid string"),
    ({"inputSchema": {"type": "object"}}, "", "name: Field required"),
    (None, "", "Input should be a valid dictionary"),
    ("bad", "", "Input should be a valid dictionary"),
]


@pytest.mark.parametrize("version", KNOWN_PROTOCOL_VERSIONS)
@pytest.mark.parametrize(("tool", "name", "problem"), MALFORMED)
def test_a_malformed_tool_is_taken_out_and_the_others_stay(version: str, tool: Any, name: str, problem: str) -> None:
    result = {**MODERN, "tools": [GOOD, tool, {**GOOD, "name": "better"}]}
    ((dropped, why),) = drop_malformed_tools(result, version)
    assert dropped == name
    assert why.startswith(problem)
    assert [tool["name"] for tool in result["tools"]] == ["good", "better"]
    methods.parse_server_result("tools/list", version, result)


@pytest.mark.parametrize("result", [{"tools": "none"}, {}, {"tools": [GOOD]}, {"tools": [GOOD], "nextCursor": 5}])
def test_what_else_is_wrong_with_a_listing_is_left_to_the_sdk(result: dict[str, Any]) -> None:
    before = dict(result)
    assert drop_malformed_tools(result, "2025-11-25") == []
    assert result == before


def test_a_listing_in_a_version_that_is_not_known_is_left_alone() -> None:
    result: dict[str, Any] = {"tools": [None]}
    assert drop_malformed_tools(result, "1999-01-01") == []
    assert result == {"tools": [None]}


def test_a_listing_of_very_many_malformed_tools_is_refused_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "MAX_PROBLEMS", 3)
    for count, left in ((3, 1), (4, 5)):
        result: dict[str, Any] = {"tools": [GOOD, *[None] * count]}
        assert len(drop_malformed_tools(result, "2025-11-25")) == len([None] * count) % 4
        assert len(result["tools"]) == left


def test_a_tool_that_only_the_schema_of_the_sdk_refuses_is_taken_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two schemas, one after the other: one tool for each."""
    parse, refused = methods.parse_server_result, {"name": "odd", "inputSchema": {"type": "object"}}

    def strict(method: str, version: str, data: Any) -> Any:
        result = parse(method, version, data)
        if refused in data["tools"]:
            place = data["tools"].index(refused)
            parse(method, version, {"tools": [*[GOOD] * place, None]})
        return result

    monkeypatch.setattr(methods, "parse_server_result", strict)
    result: dict[str, Any] = {"tools": [None, GOOD, refused]}
    assert [name for name, _ in drop_malformed_tools(result, "2025-11-25")] == ["", "odd"]
    assert result["tools"] == [GOOD]


@pytest.mark.parametrize("missing", [{}, {"resultType": None}], ids=["left out", "null"])
def test_a_result_of_the_modern_protocol_that_does_not_say_what_it_is_is_complete(missing: dict[str, Any]) -> None:
    complete(missing, "2026-07-28")
    assert missing == {"resultType": "complete"}


@pytest.mark.parametrize(("result", "version"), [({}, "2025-11-25"), ({"resultType": "task"}, "2026-07-28")])
def test_other_results_are_left_alone(result: dict[str, Any], version: str) -> None:
    before = dict(result)
    complete(result, version)
    assert result == before
