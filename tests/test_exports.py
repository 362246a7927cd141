"""What installing and importing the package provides."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import mcp_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

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


PROGRAM = """
import json, sys, threading

import mcp_pool

threads, modules = threading.active_count(), list(sys.modules)
from loguru import logger


def log(name, words):
    exec(compile(f"logger.error({words!r})", "<of a test>", "exec"), {"__name__": name, "logger": logger})


log("mcp_pool.supervision.child", "as imported")
log("another", "of another")
logger.enable("mcp_pool")
log("mcp_pool.supervision.child", "turned on")
print(json.dumps({"threads": threads, "modules": modules}))
"""


@pytest.fixture(scope="module")
def fresh() -> subprocess.CompletedProcess[str]:
    """What a fresh interpreter writes that imports the package and logs."""
    return subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)


def test_the_names_of_the_design_are_exported() -> None:
    assert set(mcp_pool.__all__) >= DESIGN


def test_the_pool_has_the_members_of_the_design() -> None:
    assert set(dir(mcp_pool.MCPPool)) >= MEMBERS


def test_importing_says_nothing(fresh: subprocess.CompletedProcess[str]) -> None:
    assert fresh.stdout.startswith("{")
    assert len(fresh.stdout.splitlines()) == 1
    assert "of another" in fresh.stderr.splitlines()[0]


def test_importing_turns_the_package_s_own_logs_off(fresh: subprocess.CompletedProcess[str]) -> None:
    assert "of another" in fresh.stderr
    assert "as imported" not in fresh.stderr


def test_the_logs_can_be_turned_on(fresh: subprocess.CompletedProcess[str]) -> None:
    assert "turned on" in fresh.stderr


@pytest.mark.parametrize("backend", ["trio", "uvloop"])
def test_importing_does_not_import_a_backend(backend: str, fresh: subprocess.CompletedProcess[str]) -> None:
    assert backend not in json.loads(fresh.stdout)["modules"]


def test_importing_starts_no_thread(fresh: subprocess.CompletedProcess[str]) -> None:
    assert json.loads(fresh.stdout)["threads"] == 1


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


MODULES = {
    ".".join(("mcp_pool", *path.relative_to(PACKAGE).with_suffix("").parts)): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in PACKAGE.rglob("*.py")
}
MADE_BY_THE_POOL = {"of"}
"""Constructors that take the pool's own parts: nobody else calls them."""


def names_of_ours(module: str) -> set[str]:
    """The names in a module that stand for something of the package: defined in it, or imported from another of it."""
    names = set[str]()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mcp_pool"):
            names.update(alias.asname or alias.name for alias in node.names)
    for node in MODULES[module].body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def types_in(module: str, annotation: ast.expr) -> set[str]:
    """The names of the package's own types in an annotation."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return names & names_of_ours(module)


def annotations(exported: str) -> Iterator[tuple[str, str, ast.expr]]:
    """All that a public name says of types: where, in which module, and what."""
    thing: Any = getattr(mcp_pool, exported)
    for module, tree in MODULES.items():  # an alias does not know its name at run time
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == exported:
                assert node.value is not None
                yield exported, module, node.value
    classes = [each for each in inspect.getmro(thing) if each.__module__ in MODULES] if inspect.isclass(thing) else []
    members = [(f"{exported}.{name}", cls, member) for cls in classes for name, member in public_members(cls)]
    for where, owner, member in [*((exported, cls, cls) for cls in classes), *members, (exported, thing, thing)]:
        called = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
        if not inspect.isfunction(called) and called not in classes:
            continue
        for name, annotation in inspect.get_annotations(called).items():
            if not name.startswith("_"):
                text = getattr(annotation, "__forward_arg__", annotation)  # what a TypedDict makes of it
                yield f"{where}: {name}", owner.__module__, ast.parse(text, mode="eval").body


def public_members(cls: type) -> Iterator[tuple[str, Any]]:
    """The members of a class that a program uses; what attrs makes of the fields says nothing that they do not."""
    for name, member in vars(cls).items():
        if (not name.startswith("_") and name not in MADE_BY_THE_POOL) or (
            name in {"__init__", "__anext__"} and not (name == "__init__" and hasattr(cls, "__attrs_attrs__"))
        ):
            yield name, member


def test_help_describes_every_field_of_every_public_class() -> None:
    """`help()` shows the docstring of a class, but neither those below its fields nor those of its bases."""
    classes = [thing for thing in vars(mcp_pool).values() if inspect.isclass(thing) and attrs.has(thing)]
    fields = [(cls, field.name) for cls in classes for field in attrs.fields(cls) if not field.name.startswith("_")]
    assert len(fields) > len(classes)
    missing = [f"{cls.__name__}.{name}" for cls, name in fields if f" {name}: " not in inspect.getdoc(cls)]
    assert missing == []


@pytest.mark.parametrize("exported", mcp_pool.__all__)
def test_whatever_type_of_ours_a_public_signature_names_can_be_imported(exported: str) -> None:
    missing = {
        where: unknown
        for where, module, annotation in annotations(exported)
        if (unknown := types_in(module, annotation) - set(mcp_pool.__all__))
    }
    assert missing == {}


def test_the_types_of_signatures_are_found_in_fields_methods_properties_bases_and_aliases() -> None:
    found = {
        exported: set[str]().union(*(types_in(module, what) for _, module, what in annotations(exported)))
        for exported in mcp_pool.__all__
    }
    assert found["MCPPool"] >= {"CallbacksFor", "EventStream", "PoolSnapshot", "RestartPolicy", "Seconds", "ToolEntry"}
    assert found["Server"] >= {"State", "ServerInfo", "Default", "ConnectError"}
    assert found["StdioServer"] >= {"Seconds", "Default", "Problem", "ClientCallbacks"}
    assert found["CallTimeout"] >= {"Phase", "ErrorContext"}
    assert found["EventStream"] >= {"Event"}
    assert found["State"] == {"Connecting", "Ready", "Closing", "BackingOff", "Failed"}
    assert found["CallbacksFor"] == {"ClientCallbacks"}


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
