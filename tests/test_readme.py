"""The documentation is correct: its Python runs, and its commands are the tested ones."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from mcp_pool import (
    ClientCallbacks,
    HealthCheck,
    HttpServer,
    InProcessServer,
    MCPPool,
    RestartPolicy,
    SseServer,
    StdioServer,
)
from mcp_pool.config.spec import CLIENT_OPTIONS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CI = ROOT / ".ci" / "run"
TIME_LIMIT = 60.0
NOWHERE = {"PATH": "", "HTTPS_PROXY": "http://127.0.0.1:9"}
"""Servers that the documents name are neither downloaded nor called."""

FENCE = re.compile(r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"# not run: \S")


def blocks(document, *languages):
    text = document.read_text()
    for match in FENCE.finditer(text):
        if match["language"] in languages:
            yield text.count("\n", 0, match.start("code")) + 1, match["code"]


def is_code(text):
    """Whether a comment is a statement that does something, and not words that happen to be one."""
    try:
        body = compile(text, "", "exec", flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).body
    except SyntaxError:
        return False
    return bool(body) and not (isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Name | ast.Constant))


def uncommented(code):
    """The code with those of its lines that are commented out, and with what a comment offers in the place of a line."""
    code = re.sub(
        r"^( *)# (.*)$", lambda line: line[1] + line[2] if is_code(line[2]) else line[0], code, flags=re.MULTILINE
    )
    return re.sub(r"^( *)\S.*  # or (\S.*)$", r"\1\2", code, flags=re.MULTILINE)


def python_blocks():
    for document in (README, *sorted((ROOT / "docs").glob("*.md"))):
        for line, code in blocks(document, "python"):
            yield pytest.param(document, line, code, id=f"{document.name}:{line}")
            if uncommented(code) != code:
                yield pytest.param(document, line, uncommented(code), id=f"{document.name}:{line}, uncommented")


def test_comments_of_the_readme_that_are_code_are_found():
    _, code = next(blocks(README, "python"))
    more = set(uncommented(code).splitlines()) - set(code.splitlines())
    assert [line.split("(")[0].strip() for line in sorted(more)] == ["pool.add", "pool.add", "anyio.run"]


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
        env={**os.environ, **NOWHERE},
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


def test_the_page_of_the_configuration_names_every_field():
    page = (ROOT / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    kinds = (StdioServer, HttpServer, SseServer, InProcessServer, RestartPolicy, HealthCheck, ClientCallbacks)
    fields = {field.name for kind in kinds for field in attrs.fields(kind)} | CLIENT_OPTIONS
    settings = inspect.signature(MCPPool).parameters.keys()
    assert fields | settings <= named, (fields | settings) - named
