"""A workspace and a real bare repository: brought together in either direction, whoever edits, and whoever dies meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id
from shared.questions import Page
from shared.questions.executor import CommitFiles, FileChange, ListFiles
from shared.questions.repositories import LookAtRepository, Synced, SyncRepository, SyncStatus
from shared.resources.repository import Repository
from tests.support.inside import bus_of, running
from tests.support.remotes import Remote, served
from tests.support.river import sandbox_settings
from tests.support.servers import Place

OPEN = {"MILLRACE_EGRESS_ALLOW": "127.0.0.1"}


class Sides:
    """The workspace of an organization and its repository."""

    def __init__(self, bus: Bus, remote: Remote, org: str = "default", **fields: Any) -> None:
        self.bus = bus
        self.remote = remote
        self.org = org
        self.spec = Repository(url=remote.url, **fields)
        self.blobs = Blobs(bus.client, "workspace")

    async def edit(self, files: dict[str, bytes | None]) -> None:
        """Change files of the workspace."""
        changes = []
        for path, content in files.items():
            if content is None:
                changes.append(FileChange(path=path))
                continue

            async def parts(content: bytes = content) -> AsyncIterator[bytes]:
                yield content

            blob = await self.blobs.put(parts())
            changes.append(FileChange(path=path, sha256=blob.sha256, size=blob.size))
        await self.bus.ask(CommitFiles(id=new_id(), org=self.org, actor="test", changes=changes))

    async def local(self) -> dict[str, bytes]:
        listed = await self.bus.ask(ListFiles(org=self.org, page=Page(limit=1000)))
        return {one.path: await self.blobs.read(one.sha256) for one in listed.items}

    async def do(self, what: Any = "sync", **how: Any) -> Synced:
        command = SyncRepository(id=new_id(), org=self.org, actor="ada", repository=self.spec, do=what, **how)
        done: Synced = await self.bus.ask(command)
        assert not {*done.to_pull} & {*done.to_push}
        assert not {*done.to_pull, *done.to_push} & {*done.conflicts}
        return done

    async def status(self, **how: Any) -> SyncStatus:
        found: SyncStatus = await self.bus.ask(LookAtRepository(org=self.org, repository=self.spec, **how))
        sets = [{one.path for one in of} for of in (found.to_pull, found.to_push, found.conflicts)]
        assert sum(map(len, sets)) == len(set().union(*sets))
        return found


@pytest.fixture
async def sides(place: Place, data: Path, tmp_path: Path) -> AsyncIterator[Sides]:
    remote = Remote(tmp_path / "flows.git")
    settings = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings(), **OPEN}
    with served(remote, token=None):
        async with running(place, "executor", **settings), bus_of(place, "gateway") as bus:
            yield Sides(bus, remote)


async def test_edit_locally_commit_remotely_sync_twice(sides: Sides) -> None:
    await sides.edit({"a.py": b"a = 1\n", "b.py": b"b = 1\n"})
    first = await sides.do()
    assert (first.to_pull, first.to_push, first.conflicts) == ([], ["a.py", "b.py"], [])
    assert sides.remote.files() == {"a.py": b"a = 1\n", "b.py": b"b = 1\n"}
    await sides.edit({"a.py": b"a = 2\n"})
    sides.remote.commit({"a.py": b"a = 1\n", "b.py": b"b = 2\n"})
    second = await sides.do()
    assert (second.to_pull, second.to_push, second.conflicts) == (["b.py"], ["a.py"], [])
    third = await sides.do()
    assert (third.to_pull, third.to_push, third.conflicts) == ([], [], [])
    assert await sides.local() == sides.remote.files() == {"a.py": b"a = 2\n", "b.py": b"b = 2\n"}
    assert len(sides.remote.log()) == 3
