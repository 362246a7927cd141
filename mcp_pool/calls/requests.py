"""The requests that users make of one server. Arguments are checked here, before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from itertools import chain
from typing import Any

from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    CallToolResult,
    CompleteResult,
    GetPromptResult,
    PromptReference,
    ReadResourceResult,
    RequestParamsMeta,
    ResourceTemplateReference,
)

from mcp_pool._shared.guard import text_of
from mcp_pool.calls.call import Request
from mcp_pool.config.settings import Seconds, timeout_problems
from mcp_pool.config.target import Target
from mcp_pool.config.validation import argument_problems, kind_problems, plain_json
from mcp_pool.connection.listing import is_offered
from mcp_pool.errors import ConfigError, Problem, UnknownTool


def tool_call(
    target: Target,
    name: str,
    arguments: Mapping[str, Any] | None,
    timeout: Seconds,
    meta: RequestParamsMeta | None,
) -> Request[CallToolResult]:
    """Return the request for a call of a tool.

    Raises:
        ConfigError: An argument is invalid.
        UnknownTool: The filters of the spec leave the tool out.
    """
    _check(
        target,
        kind_problems("name", name, str, "must be a string"),
        argument_problems("arguments", arguments),
        argument_problems("meta", meta),
        timeout_problems({"timeout": timeout}),
    )
    given, sent_meta = _plain(target, "arguments", arguments), _plain(target, "meta", meta)
    if not is_offered(name, target.spec):
        reason = f"Tool {name!r} of server {target.server_id!r} is excluded by include_tools or exclude_tools."
        raise UnknownTool(reason, advice="Change these filters in its spec.", server_id=target.server_id)

    def send(client: Client, on_progress: ProgressFnT) -> Awaitable[CallToolResult]:
        return client.call_tool(name, given, progress_callback=on_progress, meta=sent_meta)

    return Request(send=send, what=f"the call to tool {name!r}", timeout=timeout, tool=name)


def prompt_request(
    target: Target, name: str, arguments: Mapping[str, str] | None, timeout: Seconds
) -> Request[GetPromptResult]:
    """Return the request for a prompt, or raise `ConfigError`."""
    _check(
        target,
        kind_problems("name", name, str, "must be a string"),
        argument_problems("arguments", arguments, str),
        timeout_problems({"timeout": timeout}),
    )
    given = _plain(target, "arguments", arguments)
    what = f"the request for prompt {name!r}"
    return Request(send=lambda client, _: client.get_prompt(name, given), what=what, timeout=timeout)


def resource_read(target: Target, uri: str, timeout: Seconds) -> Request[ReadResourceResult]:
    """Return the request that reads a resource, or raise `ConfigError`."""
    _check(target, kind_problems("uri", uri, str, "must be a string"), timeout_problems({"timeout": timeout}))
    what = f"the read of resource {uri!r}"
    return Request(send=lambda client, _: client.read_resource(uri), what=what, timeout=timeout)


def completion(
    target: Target,
    ref: ResourceTemplateReference | PromptReference,
    argument: Mapping[str, str],
    context: Mapping[str, str] | None,
    timeout: Seconds,
) -> Request[CompleteResult]:
    """Return the request for completions of an argument, or raise `ConfigError`."""
    _check(
        target,
        kind_problems("ref", ref, (ResourceTemplateReference, PromptReference), "must be a reference"),
        kind_problems("argument", argument, Mapping, "must be a mapping with name and value"),
        argument_problems("argument", argument, str),
        argument_problems("context", context, str),
        timeout_problems({"timeout": timeout}),
    )
    fixed, known = _plain(target, "argument", argument), _plain(target, "context", context)
    what = "the completion request"
    return Request(send=lambda client, _: client.complete(ref, fixed, known), what=what, timeout=timeout)


def check_uri(target: Target, uri: object) -> None:
    """Raise `ConfigError` unless a URI is a string."""
    _check(target, kind_problems("uri", uri, str, "must be a string"))


def invalid(server_id: str, problem: Problem) -> ConfigError:
    """Return the error for an argument that is invalid."""
    return ConfigError(
        f"server {server_id!r}: {' '.join(problem)}. Nothing was sent.", server_id=server_id, problems=[problem]
    )


def _check(target: Target, *problems: Iterable[Problem]) -> None:
    """Raise `ConfigError` for the first problem with the arguments of a call."""
    for problem in chain(*problems):
        raise invalid(target.server_id, problem)


def _plain(target: Target, name: str, argument: Mapping[str, Any] | None) -> Any:
    """Return an argument of a call as plain JSON: what was checked is what is sent, also when it is sent again."""
    try:
        return None if argument is None else plain_json(dict(argument))
    except Exception as error:  # noqa: BLE001  # the code of its values may raise anything
        words = text_of(error)
    # Behind the block: an error raised inside `except` would drag the first one along as its context.
    raise invalid(target.server_id, (name, f"cannot be sent as JSON: {target.redactor.text(words)}"))
