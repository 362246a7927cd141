"""The log: loguru, with the server's id bound to each line, and safe from sinks that raise."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Literal, TypeAlias

from loguru import logger

from mcp_pool._shared.guard import user_errors

Level: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
"""A level of loguru."""


def log(level: Level, server_id: str | None, message: str, *arguments: object) -> None:
    """Write a line to the log.

    The exceptions of a sink added with `catch=False` are raised where the line is logged, possibly in the middle of
    ending a connection. So they are reported on standard error instead, as loguru itself does with `catch=True`.

    Args:
        level: The level.
        server_id: The server that the line is about, bound to the record; None: the pool.
        message: The message, with a placeholder for each argument.
        arguments: The arguments.
    """
    bound = logger if server_id is None else logger.bind(server=server_id)
    try:
        bound.opt(depth=1).log(level, message, *arguments)
    except user_errors() as error:  # a full disk must not keep a connection from ending
        with suppress(Exception):  # standard error may be closed
            sys.stderr.write(f"mcp_pool: a log sink raised {type(error).__name__}; the line was lost\n")
