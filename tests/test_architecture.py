"""The layout of the package: imports point down, modules are small, public names are listed and final."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, is_typeddict

import mcp_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(mcp_pool.__file__).parent
NAME = mcp_pool.__name__
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(ROOT.rglob("*.py"))
}
"""Each module by its name within the package; the name of a package stands for its `__init__`, the empty name for the root."""

LONGEST_MODULE = 300
FORBIDDEN = {"asyncio", "trio", "threading", "multiprocessing", "concurrent", "uvloop"}
ON_ITS_OWN = {"self", "cls"}


def tree(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def listed(package: str) -> list[str]:
    """The modules in the map of a package, in order."""
    text = ast.get_docstring(tree(package)) or ""
    return re.findall(r"^\* `(\w+)`: ", text, re.MULTILINE)


def present(package: str) -> set[str]:
    """The modules and packages that a package contains."""
    within = f"{package}." if package else ""
    names = {module.removeprefix(within) for module in MODULES if module and module.startswith(within)}
    return {name.partition(".")[0] for name in names}


def imported(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, by their names within the package. Relative imports are not allowed."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            own = name.removeprefix(f"{NAME}.")
            if own != name:
                yield max((known for known in MODULES if f"{own}.".startswith(f"{known}.")), key=len, default="")


def packages() -> list[str]:
    """The root package and all packages within it."""
    return [name for name, path in MODULES.items() if path.name == "__init__.py"]


def place(module: str) -> tuple[int, ...]:
    """The position of a module in the maps, from the outermost package to the innermost."""
    parts = module.split(".")
    return tuple(listed(".".join(parts[:depth])).index(part) for depth, part in enumerate(parts))


def foreign(module: str) -> set[str]:
    """The top-level packages that a module imports, anywhere in its code."""
    nodes = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {
        name.partition(".")[0]
        for node in nodes
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }


def is_private(name: str) -> bool:
    """Whether a name is private."""
    return name.startswith("_") and not name.endswith("__")


def own_names(module: str) -> set[str]:
    """The names that a module itself defines."""
    names = set[str]()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def private_walks(module: str) -> list[str]:
    """Where a module uses a private name that is not its own."""
    own, found = own_names(module), list[str]()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            on_itself = isinstance(node.value, ast.Name) and node.value.id in ON_ITS_OWN
            if not on_itself and node.attr not in own:
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [
                f"{module}:{node.lineno}: import of {part}" for part in parts if is_private(part) and part != "_shared"
            ]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            constants = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            found += [f"{module}:{node.lineno}: {ast.unparse(node)}" for name in constants if is_private(name)]
    return found


def public_classes() -> list[type]:
    """The classes among the public names, unions and aliases apart, and what is only a dictionary at run time."""
    public = [getattr(mcp_pool, name) for name in mcp_pool.__all__]
    return [value for value in public if isinstance(value, type) and not is_typeddict(value)]


def test_the_map_of_each_package_lists_all_its_modules() -> None:
    wrong = {package: present(package) for package in packages() if sorted(listed(package)) != sorted(present(package))}
    assert wrong == {}


def test_no_module_imports_the_root_package_and_with_it_everything_above() -> None:
    assert [module for module in MODULES if module and "" in imported(module)] == []


def test_imports_only_point_down_the_maps() -> None:
    downwards = [(module, target) for module in MODULES if module for target in imported(module) if target]
    assert downwards
    assert [(module, target) for module, target in downwards if place(module) >= place(target)] == []


def test_the_init_of_a_package_contains_only_its_map() -> None:
    nodes = {package: [node for node in tree(package).body if not isinstance(node, ast.Expr)] for package in packages()}
    assert [package for package, found in nodes.items() if package and found] == []


def test_modules_stay_small() -> None:
    lengths = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_no_module_imports_a_backend_or_starts_a_thread() -> None:
    assert {module: foreign(module) & FORBIDDEN for module in MODULES if foreign(module) & FORBIDDEN} == {}


def test_nothing_is_left_to_the_garbage_collector() -> None:
    names = {module: {getattr(node, "name", None) for node in ast.walk(tree(module))} for module in MODULES}
    assert [module for module, found in names.items() if "__del__" in found or "weakref" in foreign(module)] == []


def test_no_module_uses_private_names_of_another() -> None:
    assert {module: private_walks(module) for module in MODULES if private_walks(module)} == {}


def test_every_module_has_a_docstring() -> None:
    assert [module for module in MODULES if not ast.get_docstring(tree(module))] == []


def test_the_package_itself_has_no_logic() -> None:
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
    assert [node for node in tree("").body if not isinstance(node, allowed)] == []


def test_every_public_name_is_listed_once() -> None:
    assert len(mcp_pool.__all__) == len(set(mcp_pool.__all__))
    assert [name for name in mcp_pool.__all__ if not hasattr(mcp_pool, name)] == []


def test_the_package_imports_exactly_the_public_names() -> None:
    nodes = [node for node in tree("").body if isinstance(node, ast.ImportFrom)]
    given = {
        alias.asname or alias.name for node in nodes if (node.module or "").startswith(NAME) for alias in node.names
    }
    assert given == set(mcp_pool.__all__)


def test_public_names_are_not_private() -> None:
    assert [name for name in mcp_pool.__all__ if name.startswith("_")] == []


def test_public_concrete_classes_are_final() -> None:
    """A class with subclasses in the package does not count as concrete."""
    public = public_classes()
    concrete = [each for each in public if not any(other is not each and issubclass(other, each) for other in public)]
    assert concrete
    assert [each for each in concrete if not getattr(each, "__final__", False)] == []


def test_final_classes_have_no_subclasses() -> None:
    values = [value for module in MODULES if module for value in vars(import_module(f"{NAME}.{module}")).values()]
    final = {value for value in values if isinstance(value, type) and "__final__" in vars(value)}
    assert final
    assert {value: value.__subclasses__() for value in final if value.__subclasses__()} == {}


def test_only_one_module_writes_to_the_log() -> None:
    """Its function protects callers from errors of log sinks; the root package only turns the log off."""
    names = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ImportFrom) and node.module == "loguru"
    }
    assert names == {"", "_shared.log"}
