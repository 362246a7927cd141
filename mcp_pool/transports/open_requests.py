"""The requests of one channel that wait for an answer."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, final

import attrs
from mcp.shared.dispatcher import coerce_request_id
from mcp_types import PROTOCOL_VERSION_META_KEY, JSONRPCRequest, RequestId
from mcp_types.version import LATEST_HANDSHAKE_VERSION

_OwnerT = TypeVar("_OwnerT")


@final
@attrs.frozen(eq=False)
class OpenRequest(Generic[_OwnerT]):
    """A request that waits for an answer."""

    method: str
    """Its method."""
    version: str
    """The protocol version of its answer."""
    owner: _OwnerT | None
    """Who waits for the answer; None for the SDK, or a program that uses the SDK's client directly."""
    number: int
    """Its number among all messages sent."""


@final
@attrs.define(eq=False)
class OpenRequests(Generic[_OwnerT]):
    """The open requests by id, compared as the SDK does."""

    version: str = attrs.field(default=LATEST_HANDSHAKE_VERSION, init=False)
    """The protocol version from the handshake. Requests of the modern protocol carry their own."""
    _open: dict[RequestId, OpenRequest[_OwnerT]] = attrs.field(
        factory=dict[RequestId, OpenRequest[_OwnerT]], init=False, repr=False
    )
    _sent: int = attrs.field(default=0, init=False)
    """The number of messages sent."""
    _unanswerable: int = attrs.field(default=0, init=False)
    """The number of the latest notification or reply, until a later request has been answered; otherwise 0."""

    def __contains__(self, request_id: RequestId | None) -> bool:
        return request_id is not None and coerce_request_id(request_id) in self._open

    @property
    def sole(self) -> RequestId | None:
        """The id of the only open request, if an error without an id must be for it; otherwise None.

        Some servers answer notifications with such an error. So nothing may have been sent after the request, and no
        notification just before it: only when a later request has been answered, its error would have arrived.
        """
        if len(self._open) != 1 or self._unanswerable:
            return None
        ((request_id, request),) = self._open.items()
        return request_id if request.number == self._sent else None

    def add(self, request: JSONRPCRequest, owner: _OwnerT | None) -> RequestId:
        """Add a request that is about to be sent, and return its id.

        Args:
            request: The request.
            owner: Who waits for the answer.
        """
        if request.method == "initialize":
            self._open.clear()  # the SDK gives up on `server/discover` without telling the server
        request_id = coerce_request_id(request.id)
        meta: dict[str, Any] = (request.params or {}).get("_meta") or {}
        version = meta.get(PROTOCOL_VERSION_META_KEY, self.version)
        self._sent += 1
        self._open[request_id] = OpenRequest(request.method, version, owner, self._sent)
        return request_id

    def get(self, request_id: RequestId) -> OpenRequest[_OwnerT] | None:
        """Return an open request; None if it is not open."""
        return self._open.get(request_id)

    def remove(self, request_id: RequestId) -> OpenRequest[_OwnerT] | None:
        """Remove a request that has been answered, and return it; None if it is not open."""
        request = self._open.pop(coerce_request_id(request_id), None)
        if request is not None and request.number > self._unanswerable:
            self._unanswerable = 0
        return request

    def abandon(self, request_id: RequestId | None, owner: _OwnerT | None) -> None:
        """Remove a request if this owner has stopped waiting for the answer."""
        if request_id is not None:
            request = self._open.get(coerce_request_id(request_id))
            if request is not None and request.owner is owner:
                del self._open[coerce_request_id(request_id)]

    def note_other_message(self) -> None:
        """Record that a notification or a reply is about to be sent."""
        self._sent += 1
        self._unanswerable = self._sent
