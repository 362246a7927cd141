"""One server of a configuration file, from its entry to its spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any, Final, cast

import attrs
from pydantic import BaseModel, ValidationError

from mcp_pool._shared.log import log
from mcp_pool.config.expanded import Expanded
from mcp_pool.config.files.dialects import IGNORED, OURS, RawEntry
from mcp_pool.config.files.document import Document, Keys
from mcp_pool.config.files.expansion import Expansion, ExpansionError
from mcp_pool.config.files.mistakes import Mistake, config_error
from mcp_pool.config.files.model import ENTRY_KEYS, Entry, Ours, OursForAll
from mcp_pool.config.files.type_mistakes import did_you_mean, type_mistakes
from mcp_pool.config.invalid import InvalidServer
from mcp_pool.config.loaded import Inputs
from mcp_pool.config.policies import HealthCheck, RestartPolicy
from mcp_pool.config.servers import HttpServer, ServerConfig, SseServer, StdioServer
from mcp_pool.config.validation import is_mapping
from mcp_pool.errors import ConfigError

MILLISECONDS_FROM: Final = 1000
"""Hosts disagree on the unit of `timeout`. A number from this one on is taken for milliseconds, otherwise for seconds:
nobody lets a server be silent for 17 minutes, or for less than a second."""
_TRANSPORTS: Final = {
    "stdio": StdioServer,
    "http": HttpServer,
    "streamable-http": HttpServer,
    "streamablehttp": HttpServer,
    "streamable_http": HttpServer,
    "sse": SseServer,
}


def spec_of(document: Document, entry: RawEntry, inputs: Inputs | None) -> ServerConfig | InvalidServer | None:
    """Return the spec of a server; what stands for it if its entry is invalid; None if it is disabled.

    Args:
        document: The file.
        entry: The entry.
        inputs: The answers to the inputs that the file asks for.
    """
    if entry.values.get("disabled") is True or entry.values.get("enabled") is False:
        return None
    mistakes = list(_unknown_keys(entry))
    spec: ServerConfig | None = None
    expansion = Expansion(document.folder, inputs)
    try:
        model = Entry.model_validate(entry.values)
    except ValidationError as error:
        mistakes += type_mistakes(error, entry.values, entry.keys)
        mistakes += _variable_mistakes(entry, expansion)
        mistakes = [attrs.evolve(one, keys=entry.at(*one.keys[len(entry.keys) :])) for one in mistakes]
    else:
        spec = _Builder(entry, model, expansion, mistakes).build()
    if spec is not None and not mistakes:
        return spec
    ours = entry.values.get("mcp_pool")
    required = isinstance(ours, Mapping) and cast("Mapping[str, Any]", ours).get("required") is True
    return InvalidServer(config_error(document, mistakes, entry.server_id), required=required)


def _unknown_keys(entry: RawEntry) -> Iterator[Mistake]:
    """Yield the keys that look like misspellings of ours. Any others belong to other hosts, and are logged."""
    foreign: list[str] = []
    for key in map(str, entry.values):
        if key in ENTRY_KEYS:
            continue
        if key not in IGNORED and (hint := did_you_mean(key, ENTRY_KEYS)):
            yield Mistake((*entry.keys, key), f"is not known{hint}", is_key=True)
        else:
            foreign.append(key)
    if foreign:
        words = "Server {!r}: keys of other hosts are ignored: {}"
        log("DEBUG", entry.server_id, words, entry.server_id, ", ".join(map(repr, foreign)))


def _variable_mistakes(entry: RawEntry, expansion: Expansion) -> Iterator[Mistake]:
    """Yield what is wrong with the variables of an entry whose types are wrong as well."""
    for key in (key for key in ENTRY_KEYS if key != OURS):
        for keys, text in _texts(entry.values.get(key), (key,)):
            try:
                expansion.expand(text)
            except ExpansionError as error:
                yield Mistake((*entry.keys, *keys), str(error))


def _texts(value: object, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Yield the strings in a value, with their places."""
    if isinstance(value, str):
        yield keys, value
    elif is_mapping(value):
        for key, item in value.items():
            yield from _texts(item, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _texts(item, (*keys, index))


@attrs.define(eq=False)
class _Builder:
    """Makes a spec of an entry whose types are right."""

    entry: RawEntry
    model: Entry
    expansion: Expansion
    mistakes: list[Mistake]
    """Grows with what is wrong."""

    def build(self) -> ServerConfig | None:
        """Return the spec; None if something is wrong."""
        kind = self._kind()
        options = self._options()
        if kind is StdioServer:
            options |= self._process()
        elif kind is not None:
            options |= self._url()
        if kind is None or self.mistakes:
            return None
        problems: ConfigError | None = None
        try:
            return kind(**options)
        except ConfigError as error:
            problems = error
        self._note(problems)
        return None

    def _kind(self) -> type[StdioServer | HttpServer | SseServer] | None:
        """Return the kind of server: as it says itself, or else by what it has."""
        model = self.model
        if model.command is not None and model.url is not None:
            self._mistake("url", what="cannot be combined with command: a server is a program or a URL")
            return None
        if model.type is not None:
            kind = _TRANSPORTS.get(model.type.lower())
            if kind is None:
                self._mistake(self._key("type", "transport"), what=f"must be stdio, http or sse, not {model.type!r}")
            elif (kind is StdioServer) != (model.command is not None):
                needed = "command" if kind is StdioServer else "url"
                self._mistake(what=f"needs the key {needed}, for a server of type {model.type!r}")
                return None
            return kind
        if model.command is not None:
            return StdioServer
        if model.url is not None:
            return HttpServer
        self._mistake(what="needs the key command, for a program, or url")
        return None

    def _process(self) -> dict[str, Any]:
        model = self.model
        env = {**self._env_file(), **{name: self._text("env", name, text=text) for name, text in model.env.items()}}
        return {
            "command": self._text("command", text=model.command or "", is_path=True),
            "args": [self._text("args", index, text=text) for index, text in enumerate(model.args)],
            "env": env or None,
            "cwd": None if model.cwd is None else self._text("cwd", text=model.cwd, is_path=True),
        }

    def _url(self) -> dict[str, Any]:
        headers = {name: self._text("headers", name, text=text) for name, text in self.model.headers.items()}
        key = self._key("httpUrl", "url", "serverUrl")
        return {"url": self._text(key, text=self.model.url or ""), "headers": headers or None}

    def _env_file(self) -> dict[str, str]:
        if self.model.env_file is None:
            return {}
        path = self.expansion.folder / self._text("envFile", text=self.model.env_file, is_path=True)
        try:
            from dotenv import dotenv_values  # noqa: PLC0415  # an extra

            text = path.read_text(encoding="utf-8-sig")
        except ImportError:
            self._mistake("envFile", what="needs a package. Install the extra: mcp-pool-supervisor[config]")
            return {}
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._mistake("envFile", what=f"could not be read: {why or type(error).__name__}")
            return {}
        values = dotenv_values(stream=StringIO(text), interpolate=False)
        return {name: value for name, value in values.items() if value is not None}

    def _options(self) -> dict[str, Any]:
        """Return the fields that all kinds of servers have."""
        model = self.model
        options = options_of(model.mcp_pool, self.entry.at("mcp_pool"), self.mistakes)
        if model.timeout is not None and "call_timeout" not in options:
            timeout = model.timeout
            options["call_timeout"] = timeout / 1000 if timeout >= MILLISECONDS_FROM else timeout
        for field, globs in (("include_tools", model.include_tools), ("exclude_tools", model.exclude_tools)):
            if globs is not None:
                options.setdefault(field, globs)
        return options

    def _text(self, *keys: str | int, text: str, is_path: bool = False) -> str:
        """Return a text with its variables replaced."""
        before = set(self.expansion.secrets)
        try:
            expanded = self.expansion.path(text) if is_path else self.expansion.expand(text)
        except ExpansionError as error:
            self._mistake(*keys, what=str(error))
            return text
        return Expanded(expanded, self.expansion.secrets - before) if expanded != text else text

    def _note(self, error: ConfigError) -> None:
        """Note the problems of a spec as mistakes of the file."""
        for field, what in error.problems:
            keys: tuple[str, ...] = (field,)
            if field in self.model.mcp_pool.model_fields_set:
                keys = ("mcp_pool", field)
            elif field == "call_timeout":
                keys = ("timeout",)
            elif field == "url":
                keys = (self._key("httpUrl", "url", "serverUrl"),)
            self._mistake(*keys, what=what)

    def _key(self, *names: str) -> str:
        """Return which of several keys of the same meaning the entry has."""
        return next(name for name in names if name in self.entry.values)

    def _mistake(self, *keys: str | int, what: str) -> None:
        self.mistakes.append(Mistake(self.entry.at(*keys) if keys else self.entry.keys, what))


def options_of(ours: Ours | OursForAll, keys: Keys, mistakes: list[Mistake]) -> dict[str, Any]:
    """Return what an object `mcp_pool` sets, as arguments of a spec or of the pool.

    Args:
        ours: The object.
        keys: Where it is.
        mistakes: Grows with what is wrong.
    """
    options: dict[str, Any] = {name: getattr(ours, name) for name in ours.model_fields_set}
    for name, policy in (("restart", RestartPolicy), ("health", HealthCheck)):
        value = options.get(name)
        if isinstance(value, BaseModel):
            fields = {field: getattr(value, field) for field in value.model_fields_set}
            try:
                options[name] = policy(**fields)
            except ConfigError as error:
                mistakes += [Mistake((*keys, name, field), what) for field, what in error.problems]
        elif value == "never":
            options[name] = RestartPolicy.never()
    return options
