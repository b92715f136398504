"""Fixtures: the servers once per worker, an account and a database per test."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
import structlog

from tests.support.places import open_folder
from tests.support.servers import Place, Servers, running_servers

# How long one example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def pytest_configure() -> None:
    """Collect no garbage while 8,000 tests are found, see below; have what services in this process log be plain.

    Rich colours the source around each frame of a traceback: a second and more, in which no service in this process answers.
    """
    gc.disable()
    structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import first what no other worker begins with: each reads what the others have compiled, in place of compiling all itself."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1 and session.config.args == session.config.getini("testpaths"):
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        for path in sorted(Path(__file__).parent.rglob("test_*.py"))[number::workers]:
            # What cannot be imported is told of when it is collected.
            with contextlib.suppress(Exception):
                importlib.import_module(".".join(path.relative_to(session.config.rootpath).with_suffix("").parts))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of tests/e2e over the first two thirds, and have the quick ones of tests/unit fill what is left in the end.

    The former start whole stacks, each with ten seconds of CPU: four at a time on two cores are not ready in time.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    folders: dict[str, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent.name, []).append(path)
    spans = {"e2e": (0, 2 / 3), "unit": (1, 2)}
    places: dict[Path, float] = {}
    for folder, paths in folders.items():
        begin, end = spans.get(folder, (0, 1))
        places |= {path: begin + (end - begin) * number / len(paths) for number, path in enumerate(paths)}
    items[:] = [item for path in sorted(files, key=places.__getitem__) for item in files[path]]


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
