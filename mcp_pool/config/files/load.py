"""A configuration file, or a mapping of its form, with all of its servers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic import ValidationError

from mcp_pool.config.files.dialects import OURS, RawEntry, entries_of
from mcp_pool.config.files.document import Document, SyntaxMistake
from mcp_pool.config.files.entry import options_of, spec_of
from mcp_pool.config.files.mistakes import Mistake, config_error, excerpt
from mcp_pool.config.files.model import OursForAll
from mcp_pool.config.files.type_mistakes import type_mistakes
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.loaded import Inputs, LoadedConfig, Source
from mcp_pool.config.servers import ServerConfig
from mcp_pool.config.settings import PoolSettings
from mcp_pool.errors import ConfigError


def load(source: Source, inputs: Inputs | None) -> LoadedConfig:
    """See `load_config`."""
    document = _document(source)
    raw, mistakes = entries_of(document)
    settings = _settings(document, mistakes)
    if mistakes:
        raise config_error(document, mistakes)
    specs = {entry.server_id: spec_of(document, entry, inputs) for entry in raw}
    servers = {server_id: spec for server_id, spec in specs.items() if spec is not None}
    return LoadedConfig(document.name, MappingProxyType(servers), settings)


def spec_from_mapping(server_id: str, values: Mapping[str, Any]) -> ServerConfig:
    """Return the spec for a plain mapping that is used in the place of one.

    Raises:
        ConfigError: It is invalid.
    """
    document = Document("config", {server_id: values})
    spec = spec_of(document, RawEntry(server_id, (server_id,), values), None)
    if spec is None:
        what = Mistake(
            (server_id, "disabled" if "disabled" in values else "enabled"), "says that the server is disabled"
        )
        raise config_error(document, [what], server_id)
    if isinstance(spec, InvalidServer):
        raise spec.error
    return spec


def _document(source: Source) -> Document:
    """Read and parse a file, or raise `ConfigError`."""
    if isinstance(source, Mapping):
        return Document("config", source)
    path = Path(os.path.expanduser(source))  # noqa: PTH111  # pathlib raises for an unknown user
    problem: ConfigError
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return Document.parse(str(path), text, path.resolve().parent)
    except OSError as error:
        why = error.strerror or type(error).__name__
        problem = ConfigError(f"{path} could not be read: {why}.", advice="Check the path.", cause=error)
    except UnicodeDecodeError:
        problem = ConfigError(f"{path} is not UTF-8.", advice="Save it as UTF-8.")
    except SyntaxMistake as error:
        place = error.place
        bare = Document(str(path), None, text)
        what = f"{path}:{place.line}:{place.column}: not JSON: {error}."
        problem = ConfigError(
            what, problems=[("file", f"is not JSON: {error}")], details="\n".join(excerpt(bare, place))
        )
    raise problem


def _settings(document: Document, mistakes: list[Mistake]) -> PoolSettings:
    """Return the settings of the whole pool."""
    data = document.data
    if not isinstance(data, Mapping) or OURS not in data:
        return {}
    values = cast("Mapping[str, Any]", data)[OURS]
    try:
        ours = OursForAll.model_validate(values)
    except ValidationError as error:
        mistakes += type_mistakes(error, values, (OURS,))
        return {}
    return cast("PoolSettings", options_of(ours, (OURS,), mistakes))
