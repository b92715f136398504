"""Fixtures: the servers once per worker, an account and a database per test."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio

from tests.support.places import open_folder
from tests.support.servers import Place, Servers, running_servers

# How long one example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_configure() -> None:
    """Collect no garbage while 7,000 tests are found, see below."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all tests again and again: a tenth of the CPU of what runs in this process."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers() -> AsyncIterator[Servers]:
    """Both real servers, shared by the tests of this worker."""
    async with running_servers() as started:
        yield started


@pytest_asyncio.fixture
async def place(servers: Servers) -> AsyncIterator[Place]:
    """An account and a database of the test's own."""
    async with servers.place() as given:
        yield given


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder that the sandbox's user can reach."""
    with open_folder() as folder:
        yield folder
