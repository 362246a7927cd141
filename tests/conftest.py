"""Backends, the check that nothing is left behind, and recorded logs."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import signal
import socket
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from functools import cache
from inspect import iscoroutinefunction
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import settings
from loguru import logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator, Sequence

    from loguru import Message

LEFTOVER_BOUND = 5.0
"""Seconds within which everything that a test started must have ended: a killed process needs a moment."""

PROC = Path("/proc")
HERE = Path(__file__).parent

# A deadline would be an assertion on wall-clock time.
settings.register_profile("mcp_pool", deadline=None, print_blob=True)
settings.load_profile("mcp_pool")


# Every process of a run collects all tests, which only adds objects: looking through them for garbage again and again
# takes a third of that time.
@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.getrandbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    return f"to repeat the generated programs: --hypothesis-seed={config.getoption('--hypothesis-seed')}"


BACKENDS = {
    "asyncio": pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    "uvloop": pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
    "trio": pytest.param(("trio", {}), id="trio"),
}


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Not as parameters of the fixture: making tests only to leave them out takes half of the time of collecting them.
    chosen_here = "anyio_backend" in vars(metafunc.module) or any(
        "anyio_backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")
    )
    if "anyio_backend" in metafunc.fixturenames and not chosen_here:
        names = chosen_backends(relative(metafunc.definition.path), metafunc.config.getoption("--backend"))
        metafunc.parametrize("anyio_backend", [BACKENDS[name] for name in names], indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: Any) -> None:
    # Not an autouse fixture: its backends would multiply the tests that are not async.
    inner = obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj
    if collector.istestfunction(obj, name) and iscoroutinefunction(inner):
        pytest.mark.usefixtures("nothing_left")(obj)


LOOP_MATTERS = ("contract", "transports", "supervision", "real")
"""Folders whose tests also run on uvloop: processes, sockets and cancellation. Elsewhere asyncio is enough."""
LOOP_DOES_NOT_MATTER = frozenset(
    {
        # Servers of the program itself, or fakes
        "contract/test_bounded_memory.py",
        "contract/test_unprintable_errors.py",
        "supervision/test_replace.py",
        "supervision/test_state_moves.py",
        "supervision/test_statuses.py",
        "supervision/test_wait_ready.py",
        "transports/http/test_responses.py",
        # What is written to the log
        "contract/test_log_sinks.py",
        # What follows from a response that has arrived in one piece
        "transports/http/test_auth.py",
        "transports/http/test_credentials.py",
        "transports/http/test_hooks.py",
        "transports/http/test_rejections.py",
    }
)
"""Files of these folders in which it does not."""
SMOKE = frozenset(
    {
        "contract/test_agreement.py",
        "contract/test_native_cancel.py",
        "calls/test_calls.py",
        "connection/test_callbacks.py",
        "supervision/test_block.py",
        "transports/http/test_session_evidence.py",
        "transports/stdio/test_stdio_wire.py",
    }
)
"""The tests that run on every backend in every run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=("asyncio", "uvloop", "trio", "all"),
        default="asyncio",
        help="the backend on which all tests run; the smoke tests run on the others as well (default: asyncio)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if lost := [name for name in SMOKE | LOOP_DOES_NOT_MATTER if not (HERE / name).is_file()]:
        raise pytest.UsageError(f"conftest.py names tests that do not exist: {', '.join(lost)}")
    wanted = config.getoption("--backend")
    # What follows is for tests that choose their backends themselves, most of them because uvloop has no virtual clock.
    found = [(item, relative(item.path), backend_of(item)) for item in items]
    on_uvloop = {path for _, path, backend in found if backend == "uvloop"}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item, path, backend in found:
        stands_in = backend == "asyncio" and wanted == "uvloop" and path not in on_uvloop
        selected = backend is None or stands_in or backend in chosen_backends(path, wanted)
        (kept if selected else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def chosen_backends(path: str, wanted: str) -> Sequence[str]:
    """The backends that the tests of a file run on."""
    loop_matters = path.partition("/")[0] in LOOP_MATTERS and path not in LOOP_DOES_NOT_MATTER
    possible = [name for name in BACKENDS if name != "uvloop" or (loop_matters and sys.platform != "win32")]
    if wanted == "all" or path in SMOKE:
        return possible
    return [wanted if wanted in possible else "asyncio"]


def backend_of(item: pytest.Item) -> str | None:
    """The backend that a test runs on, or None if it has none."""
    name = getattr(item, "callspec", SimpleNamespace(id="")).id
    return next((each for each in ("uvloop", "trio", "asyncio") if each in name), None)


@cache
def relative(path: Path) -> str:
    """The path of a test file as the lists above have it."""
    return path.relative_to(HERE).as_posix()


@pytest.fixture
async def nothing_left(anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Fail a test that leaves a task, a process or a descriptor behind; part of every async test.

    `TERM` is one of the few variables that the SDK passes on to servers, and servers pass it on to their helpers. So it
    identifies them even when their parents have exited.
    """
    if sys.platform != "linux":
        yield  # only Linux shows all this in /proc
        return
    mark = f"dumb-{uuid.uuid4().hex}"
    monkeypatch.setenv("TERM", mark)
    if anyio_backend[1].get("use_uvloop"):
        # The first stream of a uvloop makes a descriptor that lives as long as the loop.
        one_end, other_end = socket.socketpair()
        with other_end:
            _, writer = await asyncio.open_connection(sock=one_end)
            writer.close()
            await writer.wait_closed()
    known, before = _process_ids(), _own()
    yield
    deadline = time.monotonic() + LEFTOVER_BOUND
    while (left := _more(before, _own()) | _processes(mark, known)) and time.monotonic() < deadline:
        await anyio.lowlevel.checkpoint()
        time.sleep(0.005)  # noqa: ASYNC251 - the test's clock may be virtual, but processes need real time
    for what, number in left:
        if what == "process":
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)  # otherwise it would disturb the tests that follow
    assert not left, "left behind:" + "".join(f"\n  {what} {number}: {text}" for (what, number), text in left.items())


def _more(before: dict[tuple[str, int], str], now: dict[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    """Return what is new and does not replace something similar: each loop has its own main task and sockets."""

    def kind(key: tuple[str, int], text: str) -> tuple[str, str]:
        return key[0], re.sub(r"\d+", "", text)

    grown = Counter(kind(*item) for item in now.items()) - Counter(kind(*item) for item in before.items())
    return {key: text for key, text in now.items() if before.get(key) != text and kind(key, text) in grown}


def _own() -> dict[tuple[str, int], str]:
    """Return the tasks of this event loop and the descriptors of this process."""
    present = {("task", task.id): task.name or "" for task in anyio.get_running_tasks()}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib takes ten times as long, here and below
        with suppress(FileNotFoundError):  # that of the listing itself
            present["descriptor", int(number)] = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
    return present


def _process_ids() -> set[str]:
    """Return the ids of all processes."""
    return {name for name in os.listdir(PROC) if name.isdecimal()}  # noqa: PTH208


def _processes(mark: str, known: set[str]) -> dict[tuple[str, int], str]:
    """Return the unknown processes that are children of this one or have `mark` in their environment."""
    present: dict[tuple[str, int], str] = {}
    for number in _process_ids() - known:
        directory = PROC / number
        try:
            state, parent, *_ = (directory / "stat").read_text(errors="replace").rpartition(") ")[2].split()
            if int(parent) != os.getpid() and mark.encode() not in (directory / "environ").read_bytes():
                continue
            command = (directory / "cmdline").read_text(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has exited, or belongs to another user
            continue
        present["process", int(number)] = f"{command or 'not waited for'} (state {state})"
    return present


@pytest.fixture
def record_logs() -> Iterator[list[Message]]:
    """Collect what mcp_pool logs: each item is the text as a sink gets it, with the data in `.record`.

    Loguru's defaults `backtrace` and `diagnose` are on, so that a logged traceback would show its locals.
    """
    messages: list[Message] = []
    sink = logger.add(messages.append, level=0, format="{level} {message} {extra}", filter="mcp_pool", catch=False)
    logger.enable("mcp_pool")
    yield messages
    logger.disable("mcp_pool")
    logger.remove(sink)
