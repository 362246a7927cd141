"""Everything that can be seen of a server: no secret may appear in it."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_pool import MCPPool


def shown(error: BaseException | None) -> str:
    """Everything that a log, a debugger or a curious program can find in an error."""
    assert error is not None
    parts: list[object] = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        parts += [link, repr(link), link.args, vars(link)]
        if hasattr(link, "errors"):
            parts.append(link.errors())
        link = link.__cause__ or link.__context__
    return "\n".join(map(str, parts))


def visible(pool: MCPPool, server_id: str) -> str:
    """Everything that the pool shows of a server."""
    server = pool.server(server_id)
    parts: list[object] = [pool, server, server.state, server.last_error, pool.snapshot(), dict(pool.servers)]
    parts += [pool.get_all_statuses(), server.info, server.client]
    return "\n".join(f"{part} {part!r}" for part in parts)
