"""Variables in the values of a configuration file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, final

import attrs

from mcp_pool._shared.guard import described, user_errors
from mcp_pool.config.loaded import Inputs

_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
_NAMED: Final = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@final
class ExpansionError(Exception):
    """A variable has no value. The text is the end of a sentence about the field."""


@final
@attrs.define(eq=False)
class Expansion:
    """Replaces the variables in the values of one server, and remembers the values that came in that way."""

    folder: Path
    """The folder of the file: `${workspaceFolder}`."""
    inputs: Inputs | None
    """The answers to `${input:…}`."""
    secrets: set[str] = attrs.field(factory=set[str], init=False, repr=False)
    """What variables were replaced by: secret, as the environment is where secrets are."""

    def expand(self, text: str) -> str:
        """Return a text with all variables replaced.

        They are `${NAME}`, `${NAME:-default}`, `${env:NAME}`, `${input:ID}`, `${workspaceFolder}` and `${userHome}`.

        Raises:
            ExpansionError: A variable has no value.
        """
        return _VARIABLE.sub(lambda match: self._value(match.group(1)), text)

    def path(self, text: str) -> str:
        """Return a path with all variables replaced, and a `~` at the beginning."""
        return os.path.expanduser(self.expand(text))  # noqa: PTH111  # pathlib raises for an unknown user

    def _value(self, variable: str) -> str:
        if variable == "workspaceFolder":
            return str(self.folder)
        if variable == "userHome":
            return str(Path.home())
        kind, _, name = variable.partition(":")
        if kind == "input":
            return self._keep(self._input(name))
        if (named := _NAMED.fullmatch(variable)) is None:
            raise ExpansionError(
                f"contains the variable ${{{variable}}}, which is not known. Use ${{NAME}}, ${{NAME:-default}}, "
                "${env:NAME}, ${input:ID}, ${workspaceFolder} or ${userHome}"
            )
        name, default = named.groups()
        if (value := os.environ.get(name)) or (value is not None and default is None):
            return self._keep(value)
        if default is not None:
            return default
        raise ExpansionError(
            f"needs the environment variable {name}, which is not set. Set it, or write ${{{name}:-default}}"
        )

    def _input(self, name: str) -> str:
        if self.inputs is None:
            raise ExpansionError(f"needs the input {name!r}. Pass inputs={{{name!r}: …}}, or a function of its id")
        failure: BaseException | None = None
        value: object = None
        try:
            value = self.inputs(name) if callable(self.inputs) else self.inputs.get(name)
        except user_errors() as error:
            failure = error
        if failure is not None:
            raise ExpansionError(f"needs the input {name!r}, for which `inputs` raised {described(failure)}")
        if not isinstance(value, str):
            raise ExpansionError(f"needs the input {name!r}, for which `inputs` has no string")
        return value

    def _keep(self, value: str) -> str:
        self.secrets.add(value)
        return value
