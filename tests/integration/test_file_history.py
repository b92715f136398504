"""The history of workspace files: what was when, by whom and what for; moves and restores; how much of it is kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.executor.store import ExecutorStore
from services.executor.workspaces import retention
from services.executor.workspaces.history import History
from shared.envelope import new_id
from shared.questions.files import ListVersions, MoveFiles, VersionList
from tests.integration.test_gateway import gateway
from tests.support.inside import bus_of, eventually
from tests.support.river import Outside, river
from tests.support.servers import Place

Call = Callable[..., Awaitable[Any]]


@contextlib.asynccontextmanager
async def disposing(engine: AsyncEngine) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await engine.dispose()


CODE = b"from millrace import workflow\n\n@workflow\ndef greet() -> str:\n    return 'hello'\n"


@contextlib.asynccontextmanager
async def workspace(place: Place, data: Path) -> AsyncIterator[tuple[Call, Outside]]:
    """Have a workspace that is called over HTTP: answers the document, or the bytes that are no document."""
    async with river(place, data) as outside, gateway(place) as client:

        async def call(method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
            sent = {"data": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
            given = client.key | {name.replace("_", "-"): value for name, value in headers.items()}
            got = await client(method, f"/api/v1/workspace/{path}", headers=given, **sent)
            assert got.status == status, (method, path, got.status, got.body)
            return got.json if "json" in got.headers.get("Content-Type", "") else got.body

        yield call, outside


async def test_every_version_of_a_file_is_kept_and_comes_back_by_a_commit(place: Place, data: Path) -> None:
    async with workspace(place, data) as (call, outside):
        for number in range(3):
            await call("PUT", f"files/notes.txt?message=number+{number}", b"version %d" % number)
        await call("DELETE", "files/notes.txt?message=not+needed")
        kept = (await call("GET", "history?path=notes.txt"))["items"]
        assert [one["message"] for one in kept] == ["not needed", "number 2", "number 1", "number 0"]
        assert [one["sha256"] is None for one in kept] == [True, False, False, False]
        assert [one["until"] for one in kept] == [None, *[one["at"] for one in kept[:3]]]
        assert all(one["actor"].startswith("key:") or one["actor"] for one in kept)
        page = await call("GET", "history?path=notes.txt&limit=2")
        assert (page["items"], len(page["items"])) == (kept[:2], 2)
        assert (await call("GET", f"history?path=notes.txt&cursor={page['next_cursor']}"))["items"] == kept[2:]
        # Content as it was, and a part of it; of the version that removed it there is none.
        old = kept[3]["version"]
        assert await call("GET", f"files/notes.txt?version={old}") == b"version 0"
        assert await call("GET", f"files/notes.txt?version={old}", status=206, Range="bytes=0-6") == b"version"
        await call("GET", f"files/notes.txt?version={kept[0]['version']}", status=404)
        await call("GET", f"files/other.txt?version={old}", status=404)
        restored = await call("POST", "restores", {"path": "notes.txt", "version": old, "message": "needed after all"})
        assert restored["files"]["notes.txt"]["sha256"] == kept[3]["sha256"]
        assert await call("GET", "files/notes.txt") == b"version 0"
        newest = (await call("GET", "commits"))["items"][0]
        assert (newest["message"], newest["changes"], newest["paths"]) == ("needed after all", 1, ["notes.txt"])
        # What is so already needs no commit.
        assert (await call("POST", "restores", {"path": "notes.txt", "version": old}))["files"] == {}
        for unclear in ({}, {"version": old}, {"at": kept[0]["at"], "path": "notes.txt"}, {"at": kept[0]["at"], "version": old}):
            await call("POST", "restores", unclear, status=422)
        await call("POST", "restores", {"path": "notes.txt"}, status=422)
        await call("POST", "restores", {"path": "notes.txt", "version": kept[0]["version"]}, status=404)
        # An organization sees its own alone.
        assert (await outside.bus.ask(ListVersions(org="other"))).items == []


async def test_a_move_is_one_commit_without_a_copy_and_done_once_however_often_it_is_sent(place: Place, data: Path) -> None:
    async with workspace(place, data) as (call, outside):
        view = await call("PUT", "files/flows/greet.py", CODE)
        await call("PUT", "files/flows/notes.txt", b"notes")
        await call("PUT", "files/there.txt", b"there")
        await call("POST", "moves", {"from": "flows/notes.txt", "to": "there.txt"}, status=409)
        await call("POST", "moves", {"from": "flows/none.txt", "to": "new.txt"}, status=404)
        await call("POST", "moves", {"from": "flows/notes.txt", "to": "../new.txt"}, status=422)
        await call("POST", "moves", {"from": "flows/notes.txt", "to": "new.txt"}, status=412, If_Match='"other"')
        moved = await call("POST", "moves", {"from": "flows/", "to": "jobs/", "message": "jobs"})
        assert set(moved["files"]) == {"flows/greet.py", "flows/notes.txt", "jobs/greet.py", "jobs/notes.txt"}
        assert moved["files"]["flows/greet.py"] is None
        assert (moved["files"]["jobs/greet.py"]["workflows"], moved["problems"]) == (["greet"], [])
        assert moved["files"]["jobs/greet.py"]["sha256"] == view["sha256"]
        commit = (await call("GET", "commits"))["items"][0]
        assert (commit["changes"], commit["message"]) == (4, "jobs")
        versions = (await call("GET", f"history?commit={commit['id']}"))["items"]
        assert {one["path"]: one["moved_from"] for one in versions if one["sha256"]} == {
            "jobs/greet.py": "flows/greet.py",
            "jobs/notes.txt": "flows/notes.txt",
        }
        await call("POST", "moves", {"from": "jobs/notes.txt", "to": "there.txt", "overwrite": True})
        assert await call("GET", "files/there.txt") == b"notes"
        # A command whose answer was lost is sent again.
        command = MoveFiles(id=new_id(), org="default", actor="test", path="there.txt", to="here.txt")
        first, again = [await outside.bus.ask(command) for _ in range(2)]
        assert (first.files, first.removed) == (again.files, again.removed)
        assert len((await call("GET", f"history?commit={command.id}"))["items"]) == 2


async def test_a_workspace_comes_back_as_it_was_at_a_time_unless_not_all_of_it_is_kept(place: Place, data: Path) -> None:
    async with workspace(place, data) as (call, _):
        await call("PUT", "files/a.txt", b"a")
        await call("PUT", "files/b/one.txt", b"one")
        await call("PUT", "files/greet.py", CODE)
        at = datetime.now(UTC).isoformat()
        await call("PUT", "files/a.txt", b"another")
        await call("DELETE", "files/b/one.txt")
        await call("PUT", "files/b/two.txt", b"two")
        await call("DELETE", "files/greet.py")
        part = await call("POST", "restores", {"at": at, "prefix": "b/"})
        assert {path: view is not None for path, view in part["files"].items()} == {"b/one.txt": True, "b/two.txt": False}
        whole = await call("POST", "restores", {"at": at})
        assert set(whole["files"]) == {"a.txt", "greet.py"}
        assert whole["files"]["greet.py"]["workflows"] == ["greet"]
        listed = (await call("GET", "files"))["items"]
        assert [one["path"] for one in listed] == ["a.txt", "b/one.txt", "greet.py"]
        assert await call("GET", "files/a.txt") == b"a"
        # Two that restore at once: each file is as one of them has it.
        await call("PUT", "files/a.txt", b"once more")
        with contextlib.suppress(AssertionError):
            await asyncio.gather(*(call("POST", "restores", {"at": at}) for _ in range(3)))
        assert await call("GET", "files/a.txt") == b"a"
        await call("POST", "restores", {"at": "yesterday"}, status=422)


LEAVES = b"""
from millrace import artifacts, files, run, shared_files, workflow


@workflow
def leaves(other: str = "") -> list:
    if other:
        try:
            files.write(f"artifacts/{other}/report.txt", "not mine")
        except Exception as error:
            return [str(error)]
    artifacts.write("report.txt", "done")
    artifacts.write("parts/one.bin", b"1" * 1000)
    shared_files.write("seen.txt", run.id)
    assert files.read_text(f"artifacts/{run.id}/report.txt") == artifacts.read_text("report.txt") == "done"
    assert files.read_text("data/seen.txt") == shared_files.read_text("seen.txt") == run.id
    assert not artifacts.exists("none.txt")
    return [one.path for one in artifacts.list()]
"""


async def test_what_a_run_leaves_is_listed_with_it_until_some_time_after_its_end(place: Place, data: Path) -> None:
    async with river(place, data) as outside, gateway(place) as client:
        await outside.put_file("leaves.py", LEAVES)
        ended = await outside.run(await outside.request("leaves"), "succeeded")
        assert ended.result == ["parts/one.bin", "report.txt"]
        listed = await client("GET", f"/api/v1/runs/{ended.id}/artifacts")
        assert [(one["path"], one["size"]) for one in listed.json["items"]] == [("parts/one.bin", 1000), ("report.txt", 4)]
        got = await client("GET", f"/api/v1/runs/{ended.id}/artifacts/report.txt")
        assert (got.status, got.body) == (200, b"done")
        assert (await client("GET", f"/api/v1/runs/{ended.id}/artifacts/none.txt")).status == 404
        for path in ("", "/report.txt"):
            assert (await client("GET", f"/api/v1/runs/{ended.id}/artifacts{path}?org=other")).status == 404
        # Another run does not write there, and no bundle holds it.
        refused = await outside.run(await outside.request("leaves", input={"other": ended.id}), "succeeded")
        assert "its own artifacts" in str(refused.result)
        versions = await outside.bus.ask(ListVersions(org="default", path=f"artifacts/{ended.id}/report.txt"))
        assert [one.actor for one in versions.items] == [f"run:{ended.id}"]
        # What is found for removal is of runs that ended before, and nothing else.
        engine = create_async_engine(place.database_url("executor").replace("postgresql:", "postgresql+asyncpg:"))
        async with disposing(engine):
            store = ExecutorStore(engine)
            assert await store.artifacts_of_ended(datetime.now(UTC) - timedelta(hours=1), 10) == []
            found = await store.artifacts_of_ended(datetime.now(UTC) + timedelta(seconds=1), 10)
            assert [one["path"] for one in found] == [f"artifacts/{ended.id}/{path}" for path in ("parts/one.bin", "report.txt")]


@dataclass
class Deps:
    """What trimming needs."""

    bus: Any
    history: History
    versions: Any = None
    database_url: str = ""
    quotas: Any = field(default_factory=lambda: SimpleNamespace(history=lambda _org: (30, 5)))


async def test_history_is_trimmed_by_age_and_number(place: Place, data: Path) -> None:
    engine = create_async_engine(place.database_url("executor").replace("postgresql:", "postgresql+asyncpg:"))
    async with workspace(place, data) as (call, _), bus_of(place, "executor") as bus, disposing(engine):
        for number in range(12):
            await call("PUT", "files/many.txt", b"%d" % number * 10)
        at = datetime.now(UTC)
        await call("PUT", "files/few.txt", b"few")
        await call("PUT", "files/few.txt", b"newer")
        await call("PUT", "files/gone.txt", b"gone")
        await call("DELETE", "files/gone.txt")

        async def kept() -> list[int]:
            return [len((await call("GET", f"history?path={name}.txt"))["items"]) for name in ("many", "few", "gone")]

        deps = Deps(bus, History(engine))
        assert await kept() == [12, 2, 2]
        assert await retention.trim(deps) == 1
        assert await kept() == [5, 2, 2]
        assert await retention.trim(deps) == 0
        # A time whose versions are kept can be restored, another is refused by name.
        await call("POST", "restores", {"at": at.isoformat(), "prefix": "few"})
        refused = await call("POST", "restores", {"at": (at - timedelta(days=1)).isoformat()}, status=422)
        assert "many.txt" in refused["detail"]
        # Much later nothing but the present is there.
        assert await retention.trim(deps, lambda: datetime.now(UTC) + timedelta(days=33)) == 1
        assert await kept() == [1, 0, 0]
        assert await call("GET", "files/many.txt") == b"11" * 10
        refused = await call("POST", "restores", {"at": at.isoformat(), "prefix": "few"}, status=422)
        assert "since" in refused["detail"]


async def test_history_gives_way_to_what_a_quota_leaves(place: Place, data: Path) -> None:
    async with river(place, data) as outside, gateway(place) as client:
        limits = {"stored_bytes": 1000, "history_versions": 50}
        assert (await client("PUT", "/api/v1/orgs/default", json=limits)).status == 200

        async def put(path: str, content: bytes) -> int:
            return (await client("PUT", f"/api/v1/workspace/files/{path}", data=content)).status

        async def is_known() -> bool:
            return await put("large.bin", bytes(1001)) == 422

        await eventually(is_known)
        for number in range(9):
            assert await put("a.bin", b"%d" % number * 300) == 200
        listed: VersionList = await outside.bus.ask(ListVersions(org="default", path="a.bin"))
        assert [one.size for one in listed.items] == [300, 300, 300]
        # Equal content is stored, and counted, once; what is a file again is no history.
        assert await put("a.bin", b"7" * 300) == 200
        listed = await outside.bus.ask(ListVersions(org="default", path="a.bin"))
        assert len(listed.items) == 4
        used = (await client("GET", "/api/v1/orgs/default/quotas")).json["stored_bytes"]
        assert used == {"limit": 1000, "used": 900}
        assert await put("b.bin", bytes(650)) == 200
        assert (await client("GET", "/api/v1/orgs/default/quotas")).json["stored_bytes"]["used"] == 950
        assert await put("c.bin", bytes(51)) == 422
