"""The official client of the Model Context Protocol, before a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

# Each way of the protocol: the one that each request says, and the one that begins with `initialize`.
WAYS = ("auto", "legacy")


@asynccontextmanager
async def connected(url: str, key: str, mode: Any = "auto", **headers: str) -> AsyncIterator[Client]:
    """A client that has made itself known with a key."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"} | headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client
