"""Where logs go, how many lines there are, and errors that nobody handled."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

from loguru import logger

LOG_SIZE: Final = 20_000_000
"""The size at which a log is rotated, in bytes: a long soak test must not fill the disk."""


class Log:
    """Where logs go, and how many lines there are."""

    def __init__(self, directory: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        """Errors of the event loop itself and of finalizers: exceptions that nobody handled."""
        logger.remove()
        logger.add(directory / "pool.log", level="INFO", rotation=LOG_SIZE, retention=1, filter=self._count)
        logger.enable("mcp_pool")
        handler = RotatingFileHandler(directory / "other.log", maxBytes=LOG_SIZE, backupCount=1)
        handler.addFilter(self._look)
        logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
        sys.unraisablehook = lambda unraisable: self.lost.append(f"{unraisable.err_msg}: {unraisable.exc_value!r}")

    def _count(self, record: Any) -> bool:
        self.counts[record["level"].name] += 1
        return True

    def _look(self, record: logging.LogRecord) -> bool:
        if record.name == "asyncio" and record.levelno >= logging.ERROR:
            self.lost.append(record.getMessage())
        return True

    def close(self) -> None:
        """Close the files."""
        logger.remove()
        for handler in logging.getLogger().handlers[:]:
            logging.getLogger().removeHandler(handler)
            handler.close()
