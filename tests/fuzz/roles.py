"""Many requests of every operation as each role, made of the OpenAPI document: the last part of `make fuzz`."""

from __future__ import annotations

import os
from pathlib import Path

import aiohttp

from tests.chaos.place import end_in_order
from tests.support import documented
from tests.support.client import Client
from tests.support.stack import running_up

# Far above what they take.
WITHIN = 3600.0


async def complaints(folder: Path, *, each: int, seed: int, seconds: int | None) -> str | None:
    """Return what is wrong with the answers of a stack in the folder, None for nothing."""
    end_in_order()
    async with running_up(folder / "data", environment=dict(os.environ)) as up, aiohttp.ClientSession() as session:
        client = Client(session, up.ready)
        keys = await documented.keys(client)
        return await documented.complaints(client.url, keys, folder, each=each, within=WITHIN, seed=seed, seconds=seconds)
