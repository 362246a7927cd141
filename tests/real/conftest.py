"""Where `nox -s real` has put the servers, and what each of them needs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from mcp_pool import StdioServer


@pytest.fixture
def real_servers(tmp_path) -> dict[str, StdioServer]:
    """Map `time`, `git`, `everything`, `filesystem` and `memory` to specifications; their files are in `tmp_path`."""
    where = os.environ.get("MCP_POOL_REAL")
    if where is None:
        pytest.fail("these tests need servers that `nox -s real` installs")
    subprocess.run(["git", "init", "-q", str(tmp_path / "repository")], check=True)
    (tmp_path / "hello.txt").write_text("hello")
    arguments = {"filesystem": [str(tmp_path)]}
    variables = {"memory": {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}}
    return {
        name: StdioServer(server["command"], server["args"] + arguments.get(name, []), env=variables.get(name))
        for name, server in json.loads(Path(where).read_text()).items()
    }
