"""What most tests of a whole stack begin with: one that runs for the module, its command and its API."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.client import Client
from tests.support.command import Command
from tests.support.places import open_folder
from tests.support.stack import Up, running_up

REMOTES = "127.0.0.77"
"""The one address of this machine that services of the stack may reach."""
ENVIRONMENT = {**os.environ, "MILLRACE_DIGEST_SECONDS": "1", "MILLRACE_EGRESS_ALLOW": REMOTES}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def up() -> AsyncIterator[Up]:
    """A stack of the module's own."""
    with open_folder() as place:
        async with running_up(place / ".millrace", environment=ENVIRONMENT) as stack:
            yield stack


@pytest.fixture
def millrace(up: Up) -> Command:
    """The command, called where it finds the stack by itself."""
    return Command(up.data.parent)


@pytest_asyncio.fixture
async def client(up: Up) -> AsyncIterator[Client]:
    """The stack's API, with the platform's key."""
    async with aiohttp.ClientSession() as session:
        yield Client(session, up.read())
