"""Where `nox -s real` has put the servers."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest


class Command(NamedTuple):
    command: str
    args: list[str]


@pytest.fixture(scope="session")
def real_servers() -> dict[str, Command]:
    """Map `time`, `git`, `everything`, `filesystem` and `memory` to their commands."""
    where = os.environ.get("MCP_POOL_REAL")
    if where is None:
        pytest.fail("these tests need servers that `nox -s real` installs")
    return {name: Command(**server) for name, server in json.loads(Path(where).read_text()).items()}
