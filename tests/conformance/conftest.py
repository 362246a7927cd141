"""The suite that `nox -s conformance` has installed."""

import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def suite() -> list[str]:
    """The command of the official conformance suite."""
    where = os.environ.get("MCP_POOL_CONFORMANCE")
    if where is None:
        pytest.fail("these tests need the suite that `nox -s conformance` installs")
    return json.loads(Path(where).read_text())
