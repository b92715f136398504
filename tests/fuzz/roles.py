"""Many requests of every operation as each role, made of the OpenAPI document; a part of `make fuzz`."""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp

from tests.support.client import Client
from tests.support.documented import complaints, keys
from tests.support.places import open_folder
from tests.support.stack import running_up

# Requests of an operation with each key; `make test` sends one.
EACH = 10
# Far above what they take.
WITHIN = 3600.0


async def main() -> str | None:
    """Return what is wrong with the answers, None for nothing."""
    with open_folder() as folder:
        async with running_up(folder / "data", environment=dict(os.environ)) as up, aiohttp.ClientSession() as session:
            client = Client(session, up.ready)
            return await complaints(client.url, await keys(client), folder, each=EACH, within=WITHIN)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
