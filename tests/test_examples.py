"""The examples run unchanged and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ELSEWHERE = {"public_servers.py"}  # tests/real
TIME_LIMIT = 100.0

# What the output must contain, in this order.
PHRASES: dict[str, list[str]] = {
    "quickstart.py": [
        "4 of 4 servers connected",
        "notes__write: 1 saved",
        "diary__read: nothing",
        "weather__forecast: sunshine in Oslo",
        "calculator__add: 5",
        "notes is error",
        "was killed by SIGKILL (9)",
        "meanwhile, calculator__add: 50",
        "notes is connecting",
        "notes is connected",
        "notes__read: nothing",
        "left the block: <MCPPool closed, 0 of 0 servers connected>",
        "servers: {} tools: {} statuses: {}",
    ],
    "starlette_app.py": [
        '/health -> 200 {"calculator":"connected"}',
        '/call/calculator__add?a=2&b=3 -> 200 {"result":5}',
        "/call/calculator__divide?a=2&b=3 -> 502",
        "connected: 1 calls done: 1 of calculator",
        "left the lifespan: <MCPPool closed",
    ],
    "trio_app.py": ["wrote", "read ['bread', 'milk', 'salt']", "nothing left: <MCPPool closed"],
    "asyncio_app.py": ["read ['bread', 'milk', 'salt']", "nothing left: <MCPPool closed"],
    "typed_wrapper.py": [
        "callbacks for calculator",
        "tools: calculator__add",
        "calculator__add: 5",
        "failed in phase spawn",
        "after restart: Ready",
        "connected: 1",
        "missing is error (Failed)",
        "calculator is connected (Ready)",
        "problems: (('command', 'must be the name or path of a program",
    ],
    "follow_config.py": [
        "servers: notes",
        "notes has left",
        "diary is connected",
        "arg is not known. Did you mean 'args'?",
        "servers: diary",
    ],
    "deadline.py": [
        "still answers: started, cleaned up",
        "cancelled by the deadline: True",
        "nothing left: <MCPPool closed",
    ],
}


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == PHRASES.keys() | ELSEWHERE


@pytest.mark.parametrize("name", PHRASES)
def test_example(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    at = 0
    for phrase in PHRASES[name]:
        found = done.stdout.find(phrase, at)
        assert found >= 0, f"{phrase!r} is missing or in the wrong place:\n{done.stdout}"
        at = found + len(phrase)
