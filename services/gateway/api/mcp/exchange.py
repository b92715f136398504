"""One request of a client, and what its method may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.access import authorize
from services.gateway.api.endpoint import Call, Endpoint
from services.gateway.api.mcp.protocol import RpcRequest
from services.gateway.api.served import delegated
from services.gateway.principals import Principal
from shared.errors import NotFound, PermissionDenied

Result = dict[str, Any] | web.StreamResponse
Method = Callable[["Exchange"], Awaitable[Result]]


class Exchange(msgspec.Struct, frozen=True):
    """A request, the call that it came with, and whether its client takes a stream of events for an answer."""

    call: Call[Any, Any]
    request: RpcRequest
    takes_stream: bool

    @property
    def principal(self) -> Principal:
        """Return who calls."""
        found = self.call.caller.principal
        if found is None:
            raise TypeError("nobody calls")
        return found

    def may(self, endpoint: Endpoint, **path: str) -> bool:
        """Return whether the caller may call an endpoint."""
        try:
            authorize(self.principal, endpoint, self.call.caller.org, path)
        except (PermissionDenied, NotFound):
            return False
        return True

    async def of(self, endpoint: Endpoint, **parts: Any) -> Any:
        """Carry out a call of an endpoint, as `delegated` does."""
        return await delegated(self.call, endpoint, **parts)
