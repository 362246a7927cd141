"""What installing and importing the package provides."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import mcp_pool

PACKAGE = Path(mcp_pool.__file__).parent
DISTRIBUTION = "mcp-pool-supervisor"

DESIGN = {
    "InvalidResponse",
    "CallTimeout",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "ConnectionStatus",
    "DEFAULT",
    "InProcessServer",
    "MCPPool",
    "MCPPoolError",
    "PoolClosed",
    "RestartPolicy",
    "ServerUnavailable",
    "StdioServer",
    "UnknownServer",
    "UnknownTool",
}
"""The names that programs rely on; there may be more."""

MEMBERS = {
    "add",
    "call_tool",
    "cancel",
    "close_all",
    "complete",
    "connect",
    "connected_count",
    "disconnect",
    "events",
    "get_all_statuses",
    "get_status",
    "read_resource",
    "replace",
    "server",
    "servers",
    "snapshot",
    "tools",
    "wait_ready",
}


def run(program: str) -> str:
    """The output of a fresh interpreter, on both streams, when it runs a program."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_names_of_the_design_are_exported() -> None:
    assert set(mcp_pool.__all__) >= DESIGN


def test_the_pool_has_the_members_of_the_design() -> None:
    assert set(dir(mcp_pool.MCPPool)) >= MEMBERS


def test_importing_prints_nothing() -> None:
    assert run("import mcp_pool") == ""


def test_importing_turns_off_the_packages_own_logs() -> None:
    program = """
import mcp_pool, sys
from loguru import logger
exec(compile("logger.error('of the package')", "<of a test>", "exec"), {"__name__": "mcp_pool.supervision.child", "logger": logger})
exec(compile("logger.error('of another')", "<of a test>", "exec"), {"__name__": "another", "logger": logger})
"""
    output = run(program)
    assert "of another" in output
    assert "of the package" not in output


def test_the_logs_can_be_turned_on() -> None:
    program = """
import mcp_pool
from loguru import logger
logger.enable("mcp_pool")
exec(compile("logger.error('of the package')", "<of a test>", "exec"), {"__name__": "mcp_pool.supervision.child", "logger": logger})
"""
    assert "of the package" in run(program)


@pytest.mark.parametrize("backend", ["trio", "uvloop"])
def test_importing_does_not_import_a_backend(backend: str) -> None:
    assert run(f"import mcp_pool, sys; print({backend!r} in sys.modules)").strip() == "False"


def test_importing_starts_no_thread() -> None:
    assert run("import threading, mcp_pool; print(threading.active_count())").strip() == "1"


def test_the_distribution_is_installed_under_its_own_name() -> None:
    assert metadata.metadata(DISTRIBUTION)["Name"] == DISTRIBUTION


def test_the_distribution_has_a_version_of_three_numbers() -> None:
    assert all(part.isdecimal() for part in metadata.version(DISTRIBUTION).split("."))
    assert len(metadata.version(DISTRIBUTION).split(".")) == 3


def test_the_distribution_says_which_pythons_it_runs_on() -> None:
    assert metadata.metadata(DISTRIBUTION)["Requires-Python"] == ">=3.11"


def test_the_distribution_needs_four_packages() -> None:
    needed = [need for need in metadata.requires(DISTRIBUTION) or [] if "extra ==" not in need]
    assert sorted(re.split(r"[^\w-]", need)[0] for need in needed) == ["anyio", "attrs", "loguru", "mcp"]


def test_the_distribution_has_an_extra_for_trio() -> None:
    assert "trio" in (metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or [])


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files(mcp_pool).joinpath("py.typed").is_file()


OLD = (
    r"\b(BadAnswer|HttpStatus|EventsMissed|Listener|Parked|parked|ToolsChanged|needs_person|next_try|retry_at|last_words"
    r"|resend|misses)\b"
)
"""Public names of the first edition, which must not come back."""
ROOT = Path(__file__).parent.parent
READ_BY_USERS = [
    *PACKAGE.rglob("*.py"),
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").rglob("*.py"),
]


@pytest.mark.parametrize("path", READ_BY_USERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_old_public_names_are_gone(path: Path) -> None:
    assert re.findall(OLD, path.read_text(encoding="utf-8")) == []
