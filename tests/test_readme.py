"""The documentation is correct: its Python runs, and its commands are the tested ones."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"
TIME_LIMIT = 60.0

FENCE = re.compile(r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"# not run: \S")


def blocks(document, *languages):
    text = document.read_text()
    for match in FENCE.finditer(text):
        if match["language"] in languages:
            yield text.count("\n", 0, match.start("code")) + 1, match["code"]


def python_blocks():
    for document in (README, *sorted((ROOT / "docs").glob("*.md"))):
        for line, code in blocks(document, "python"):
            yield pytest.param(document, line, code, id=f"{document.name}:{line}")


@pytest.mark.parametrize(("document", "line", "code"), list(python_blocks()))
def test_each_python_block_runs(document, line, code, tmp_path):
    source = "\n" * (line - 1) + code  # so that a traceback has the line numbers of the document
    if NOT_RUN.match(code):
        compile(source, str(document), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return
    script = tmp_path / f"{document.stem}.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_readme_contains_the_two_tested_commands():
    commands = [
        line.removeprefix("$ ")
        for _, code in blocks(README, "bash", "console", "sh", "shell")
        for line in code.splitlines()
        if line.strip()
    ]
    assert len(commands) == 2
    assert [command for command in commands if "examples/quickstart.py" in command] == commands[:1]
    assert f"{commands[1]} || exit 1" in CI.read_text().splitlines()


def test_each_test_named_in_failures_md_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "failures.md").read_text()))
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there.update(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    assert named
    assert named <= there, named - there
