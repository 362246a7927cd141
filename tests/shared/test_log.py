"""Log lines, and what happens when a sink fails."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from loguru import logger

from mcp_pool._shared.log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOST = "mcp_pool: a log sink raised {}; the line was lost\n"


@contextmanager
def sink(write: Callable[[Any], None], **options: Any) -> Iterator[None]:
    """Add a sink for what this module logs, whose exceptions reach the caller."""
    number = logger.add(write, level=0, catch=False, filter=__name__, **options)
    try:
        yield
    finally:
        logger.remove(number)


def raising(error: BaseException) -> Callable[[Any], None]:
    """A sink that raises the given exception."""

    def write(_message: object) -> None:
        raise error

    return write


class Broken:
    """A standard error that nobody can write to."""

    def write(self, _text: str) -> None:
        raise ValueError("I/O operation on closed file")


def test_a_line_about_a_server_has_its_id_and_one_about_the_pool_has_none() -> None:
    records = list[Any]()
    with sink(lambda message: records.append(message.record)):
        log("INFO", "s", "{} and {!r}", 1, "two")
        log("DEBUG", None, "of the pool")
    first, second = records
    assert (first["message"], first["level"].name, first["extra"]) == ("1 and 'two'", "INFO", {"server": "s"})
    assert (second["message"], second["level"].name, second["extra"]) == ("of the pool", "DEBUG", {})


def test_a_line_names_the_place_that_logged_it() -> None:
    places = list[tuple[str, str]]()
    with sink(lambda message: places.append((message.record["name"], message.record["function"]))):
        log("INFO", "s", "here")
    assert places == [(__name__, "test_a_line_names_the_place_that_logged_it")]


def test_an_error_of_a_sink_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with sink(raising(OSError(28, "No space left on device"))):
        log("ERROR", "s", "secret {}", "words")
    assert capsys.readouterr().err == LOST.format("OSError")


def test_a_sink_that_ends_with_a_cancellation_cancels_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        with sink(raising(asyncio.CancelledError())):
            log("ERROR", "s", "words")
        await anyio.lowlevel.checkpoint()

    anyio.run(main, backend="asyncio")
    assert capsys.readouterr().err == LOST.format("CancelledError")


@pytest.mark.parametrize("stderr", [None, Broken()], ids=["none", "closed"])
def test_a_sink_that_raises_without_standard_error_is_ignored(stderr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list[str]()

    def write(message: str) -> None:
        lines.append(message)
        raise OSError(28, "No space left on device")

    with sink(write, format="{message}"):
        monkeypatch.setattr(sys, "stderr", stderr)
        log("ERROR", "s", "words")
        monkeypatch.undo()
    assert lines == ["words\n"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()], ids=["interrupt", "exit"])
def test_exceptions_that_end_the_program_pass_from_a_sink(error: BaseException) -> None:
    with sink(raising(error)), pytest.raises(type(error)):
        log("ERROR", "s", "words")
