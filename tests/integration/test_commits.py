"""Commits: many files of a workspace as one version, all of them or none, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import random
import signal
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from services.executor.workspaces import commits
from services.gateway.api.commits import _stored
from services.gateway.api.unpacking import unpacked
from shared import aggregate, db
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, Malformed, NotFound, PreconditionFailed, TooLarge, Unavailable
from shared.messages import FileChanged
from shared.messages.declaration import hashed_key
from shared.ordered_reader import OrderedReader
from shared.pull import api_request
from shared.questions import Page
from shared.questions.files import MOST_CHANGES, CommitFiles, Committed, FileChange, FileList, FileView, ListFiles, PutFile
from shared.questions.workflows import ListWorkflows, WorkflowList
from tests.support.inside import bus_of, eventually, running
from tests.support.river import river, sandbox_settings
from tests.support.servers import Place

FLOW = "from millrace import workflow\n{imports}\n\n@workflow\ndef {name}() -> str:\n    return {value}\n"


def flow(name: str, value: str = "'first'", imports: str = "") -> bytes:
    return FLOW.format(name=name, value=value, imports=imports).encode()


async def changes(bus: Bus, files: dict[str, bytes | None], expected: dict[str, str] | None = None) -> list[FileChange]:
    """Upload contents; return the changes that name them."""

    async def one(path: str, content: bytes | None) -> FileChange:
        guard = (expected or {}).get(path)
        if content is None:
            return FileChange(path=path, expected=guard)

        async def parts() -> AsyncIterator[bytes]:
            yield content

        blob = await Blobs(bus.client, "workspace").put(parts())
        return FileChange(path=path, sha256=blob.sha256, size=blob.size, expected=guard)

    return [await one(path, content) for path, content in files.items()]


async def commit(
    bus: Bus, files: dict[str, bytes | None], *, id_: str | None = None, dry_run: bool = False, **expected: Any
) -> Committed:
    given = await changes(bus, files, **expected)
    command = CommitFiles(id=id_ or new_id(), org="default", actor="test", changes=given, dry_run=dry_run)
    done: Committed = await bus.ask(command)
    return done


async def told(place: Place) -> list[str]:
    """Return what the stream holds of files and workflows: type and path or name, in order."""
    found: list[str] = []
    async with bus_of(place, "admin") as admin:
        last = (await api_request(admin.client, "$JS.API.STREAM.INFO.CATALOG", None))["state"]["last_seq"]
        if last == 0:
            return found
        async with contextlib.aclosing(OrderedReader(admin.client, "CATALOG").batches()) as batches:
            async for batch in batches:
                for one in batch:
                    if one.subject.startswith(("file.", "workflow.")):
                        data = aggregate._stored(one.sequence, one.subject, one.data)
                        message: Any = data.message()
                        found.append(f"{data.envelope.type} {getattr(message, 'name', None) or message.path}")
                if batch[-1].sequence >= last:
                    break
    return found


async def paths(bus: Bus) -> list[str]:
    listed: FileList = await bus.ask(ListFiles(org="default", prefix="", page=Page(limit=1000)))
    return [view.path for view in listed.items]


async def serving(bus: Bus) -> dict[str, str]:
    listed: WorkflowList = await bus.ask(ListWorkflows(org="default", page=Page(limit=1000)))
    return {entry.name: entry.version for entry in listed.items}


async def test_a_folder_of_200_files_is_one_version_that_is_described_once(place: Place, data: Path) -> None:
    files = {f"flows/f{number}.py": flow(f"f{number}") for number in range(100)}
    files |= {f"data/{number}.txt": f"{number}".encode() for number in range(100)}
    async with river(place, data) as outside:
        done = await commit(outside.bus, dict(files))
        assert (len(done.files), done.problems) == (200, [])
        assert {view.path: view.workflows for view in done.files}["flows/f7.py"] == ["f7"]
        served = await serving(outside.bus)
        assert (len(served), len(set(served.values()))) == (100, 1)
        assert len(await told(place)) == 300
        assert (await outside.run(await outside.request("f99"), "succeeded")).result == "first"
        # What is only tried is read as it would be, beside all that is there, and nothing comes of it.
        before = await told(place)
        wanted = {"flows/f1.py": flow("f1", "'second'"), "flows/twin.py": flow("f2"), "flows/odd.py": b"def (", "flows/f3.py": None}
        tried = await commit(outside.bus, wanted, dry_run=True)
        assert ({one.path for one in tried.problems}, tried.files, tried.removed) == ({"flows/odd.py", "flows/twin.py"}, [], [])
        assert (await told(place), await serving(outside.bus)) == (before, served)
        with pytest.raises(PreconditionFailed):
            await commit(outside.bus, {"flows/f1.py": b""}, dry_run=True, expected={"flows/f1.py": "0" * 64})
        assert (await outside.run(await outside.request("f1"), "succeeded")).result == "first"


async def test_thousands_of_files_are_there_together_or_not_at_all(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        [one] = await changes(outside.bus, {"data/0.txt": b"the same in all"})
        many = [FileChange(path=f"data/{number}.txt", sha256=one.sha256, size=one.size) for number in range(MOST_CHANGES)]
        # The last of them was expected to be there: one that fails is enough.
        wrong = [*many[:-1], msgspec.structs.replace(many[-1], expected=one.sha256)]
        with pytest.raises(PreconditionFailed):
            await outside.bus.ask(CommitFiles(id=new_id(), org="default", actor="test", changes=wrong))
        assert await told(place) == []
        done: Committed = await outside.bus.ask(CommitFiles(id=new_id(), org="default", actor="test", changes=many))
        assert len(done.files) == MOST_CHANGES
        assert len(await told(place)) == MOST_CHANGES


async def test_paths_that_are_too_long_together_are_refused_before_anything_is_recorded(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        [one] = await changes(outside.bus, {"data/0.txt": b"the same in all"})
        long = "/".join(["x" * 200] * 3)
        many = [FileChange(path=f"{long}/{number}.txt", sha256=one.sha256, size=one.size) for number in range(1000)]
        with pytest.raises(TooLarge, match="the paths of a commit"):
            await outside.bus.ask(CommitFiles(id=new_id(), org="default", actor="test", changes=many))
        assert await told(place) == []


async def test_only_workflows_whose_own_code_has_changed_are_told_of(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        first: dict[str, bytes | None] = {
            "a.py": flow("a", "helper.VALUE", "import helper"),
            "b.py": flow("b"),
            "c.py": flow("c", "helper.VALUE", "from deep.er import helper"),
            "helper.py": b"VALUE = 'first'\n",
            "deep/er/helper.py": b"VALUE = 'deep'\n",
        }
        await commit(outside.bus, first)
        before, was = await serving(outside.bus), len(await told(place))
        await commit(outside.bus, {"helper.py": b"VALUE = 'second'\n"})
        after = await serving(outside.bus)
        # `c` may mean either of two modules of this name, for all that its words tell.
        assert {name for name in after if after[name] != before[name]} == {"a", "c"}
        assert (await told(place))[was:] == ["file.changed helper.py", "workflow.changed a", "workflow.changed c"]
        assert (await outside.run(await outside.request("a"), "succeeded")).result == "second"
        assert (await outside.run(await outside.request("b"), "succeeded")).result == "first"
        # What was there before is served as it was, by the version that it had.
        await commit(outside.bus, {"helper.py": first["helper.py"]})
        assert await serving(outside.bus) == before


async def test_a_workflow_that_was_removed_with_its_file_is_served_again_when_that_comes_back(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await commit(outside.bus, {"a.py": flow("a"), "b.py": flow("b")})
        before = await serving(outside.bus)
        removed = await commit(outside.bus, {"b.py": None, "absent.py": None})
        assert (removed.removed, await paths(outside.bus)) == (["b.py", "absent.py"], ["a.py"])
        assert set(await serving(outside.bus)) == {"a"}
        await commit(outside.bus, {"b.py": flow("b")})
        assert await serving(outside.bus) == before


async def test_a_commit_of_which_anything_is_refused_changes_nothing(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await commit(outside.bus, {"a.py": flow("a"), "d/e.txt": b"e"})
        was = await told(place)
        good: dict[str, bytes | None] = {"good.py": flow("good"), "a.py": flow("a", "'second'")}
        wrong = "0" * 64
        for path in ("../x.py", "d", "A.PY", "good.py/x"):
            with pytest.raises(Invalid):
                await commit(outside.bus, good | {path: b""})
        with pytest.raises(PreconditionFailed):
            await commit(outside.bus, good, expected={"a.py": wrong})
        uploaded = await changes(outside.bus, good)
        missing = FileChange(path="missing.py", sha256=wrong, size=1)
        with pytest.raises(NotFound):
            await outside.bus.ask(CommitFiles(id=new_id(), org="default", actor="test", changes=[*uploaded, missing]))
        with pytest.raises(Invalid):
            await outside.bus.ask(CommitFiles(id=new_id(), org="default", actor="test", changes=[uploaded[0], uploaded[0]]))
        assert await told(place) == was
        # A folder may become a file, and a file a folder, in one commit.
        await commit(outside.bus, {"d/e.txt": None, "d": b"", "a.py": None, "a.py/b.txt": b""})
        assert await paths(outside.bus) == ["a.py/b.txt", "d"]


async def test_broken_code_is_told_of_while_the_rest_of_the_commit_serves(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        bad = b"from millrace import workflow\nimport nothing_of_this_name\n"
        done = await commit(outside.bus, {"good.py": flow("good"), "bad.py": bad})
        assert [problem.path for problem in done.problems] == ["bad.py"]
        assert {view.path: [one.path for one in view.problems] for view in done.files} == {"good.py": [], "bad.py": ["bad.py"]}
        assert set(await serving(outside.bus)) == {"good"}


async def test_the_same_command_twice_registers_once(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        id_ = new_id()
        files: dict[str, bytes | None] = {"a.py": flow("a"), "b.py": flow("b")}
        first, again = await asyncio.gather(commit(outside.bus, files, id_=id_), commit(outside.bus, files, id_=id_))
        assert first == again
        await commit(outside.bus, {"a.py": flow("a", "'later'")})
        # What was committed since is not undone by a command that comes again.
        await commit(outside.bus, files, id_=id_)
        assert (await outside.run(await outside.request("a"), "succeeded")).result == "later"
        assert (await told(place)).count("workflow.changed b") == 1


async def test_of_two_commits_at_once_each_is_whole_and_a_guard_lets_one_pass(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        names = [f"f{number}" for number in range(10)]
        both = await asyncio.gather(
            *(commit(outside.bus, {f"{name}.py": flow(name, f"'{who}'") for name in names}) for who in ("one", "other"))
        )
        assert [len(done.files) for done in both] == [10, 10]
        ends = {(await outside.run(await outside.request(name), "succeeded")).result for name in names}
        assert len(ends) == 1
        now = {"one": both[0], "other": both[1]}[ends.pop()]
        guard = {view.path: view.sha256 for view in now.files}
        outcomes = await asyncio.gather(
            *(commit(outside.bus, {path: flow(path[:-3], f"'{who}'") for path in guard}, expected=guard) for who in ("a", "b")),
            return_exceptions=True,
        )
        assert sorted(type(one) for one in outcomes if not isinstance(one, Committed)) == [PreconditionFailed]


async def test_a_commit_that_lost_its_lock_changes_nothing_of_what_another_wrote_meanwhile(place: Place) -> None:
    """The lock may go with its connection; the expectations stay."""
    async with bus_of(place, "executor") as bus:
        keys = [hashed_key("default", path) for path in ("a.txt", "b.txt")]
        message = [FileChanged(key=key, path="x", sha256="0" * 64, size=0, actor="test") for key in keys]
        sealed = [bus.seal(one, org="default") for one in message]
        await bus.append(bus.seal(message[1], org="default"), 0)
        with pytest.raises(Conflict):
            await aggregate.append_together(bus.client, [(one, 0) for one in sealed])
        assert await aggregate.last(bus.client, "file", keys[0]) is None


@contextlib.asynccontextmanager
async def executor_process(place: Place, data: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    variables = place.environment("executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "executor", env={**os.environ, **variables}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_an_executor_killed_in_the_middle_of_a_commit_leaves_all_of_it_or_nothing(place: Place, data: Path) -> None:
    names = [f"f{number}" for number in range(20)]
    seen: set[str] = set()
    async with bus_of(place, "gateway") as bus:
        took = await committed_by_a_process(place, data, bus, names)
        for version in range(1, 7):
            files: dict[str, bytes | None] = {f"{name}.py": flow(name, f"'{version}'") for name in names}
            command = CommitFiles(id=new_id(), org="default", actor="test", changes=await changes(bus, files))
            async with executor_process(place, data) as process:
                await answering(bus)
                before = await serving(bus)
                asking = asyncio.create_task(bus.ask(command))
                # From nearly at once to long enough.
                await asyncio.sleep(took * random.uniform(version - 1, version) / 5)
                process.kill()
                await process.wait()
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            async with executor_process(place, data):
                await answering(bus)

                # The rows follow the stream: a part of them may be there for a moment, and not for long.
                async def changed_together(before: dict[str, str] = before) -> list[set[str]]:
                    after = await serving(bus)
                    changed = {name for name in names if after[name] != before[name]}
                    return [changed] if changed in (set(), set(names)) else []

                [changed] = await eventually(changed_together)  # type: ignore[misc]
                hashes = {await sha256_of(place, change.path) == change.sha256 for change in command.changes}
                assert len(hashes) == 1, "some of the files are of the new version"
                seen.add("all" if changed else "nothing")
                done: Committed = await bus.ask(command)
                assert len(done.files) == len(names)
                assert len(set((await serving(bus)).values())) == 1
    assert "nothing" in seen


async def committed_by_a_process(place: Place, data: Path, bus: Bus, names: list[str]) -> float:
    """Return how many seconds it takes where nothing gets in the way: of two the quicker one."""
    took = []
    async with executor_process(place, data):
        await answering(bus)
        for version in ("'first'", "'0'"):
            began = time.monotonic()
            await commit(bus, {f"{name}.py": flow(name, version) for name in names})
            took.append(time.monotonic() - began)
    return min(took)


async def answering(bus: Bus) -> None:
    async def answers() -> bool:
        try:
            await bus.ask(ListFiles(org="default", prefix="", page=Page(limit=1)))
        except Unavailable:
            return False
        return True

    await eventually(answers, every=0.1)


async def test_a_file_whose_row_is_late_is_not_said_to_be_missing(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus_of(place, "gateway") as bus:
        (change,) = await changes(bus, {"one.py": flow("one")})
        command = PutFile(id=new_id(), org="default", actor="test", path=change.path, sha256=change.sha256 or "", size=change.size)
        # As if another replica, which writes the rows, stood still.
        async with (
            db.held_lock(place.database_url("executor"), "executor.catalog", service="executor"),
            running(place, "executor", MILLRACE_DATA=str(data), **sandbox_settings()),
        ):
            with monkeypatch.context() as hasty:
                hasty.setattr(commits, "ROWS_WITHIN", 0.1)
                with pytest.raises(Unavailable, match="rows of the workspace are behind"):
                    await bus.ask(command)
        async with running(place, "executor", MILLRACE_DATA=str(data), **sandbox_settings()):
            view: FileView = await bus.ask(command)
            assert (view.path, view.sha256, view.workflows) == ("one.py", change.sha256, ["one"])
            assert [one for one in await told(place) if "one.py" in one] == ["file.changed one.py"]


async def sha256_of(place: Place, path: str) -> str:
    async with bus_of(place, "executor") as bus:
        found = await aggregate.last(bus.client, "file", hashed_key("default", path))
        message = None if found is None else found.message()
        assert isinstance(message, FileChanged)
        return message.sha256


async def test_what_dies_between_the_stream_and_the_registry_is_made_up_for_by_the_next(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = asyncio.Event()
    together = aggregate.append_together

    async def stops(client: Any, appends: Any) -> int:
        await together(client, appends)
        stored.set()
        await asyncio.Event().wait()
        raise AssertionError

    files: dict[str, bytes | None] = {f"f{number}.py": flow(f"f{number}") for number in range(5)}
    async with bus_of(place, "gateway") as bus:
        async with running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()):
            with monkeypatch.context() as patched:
                patched.setattr(commits.aggregate, "append_together", stops)
                asking = asyncio.create_task(commit(bus, files))
                await stored.wait()
                asking.cancel()

        async def all_serve() -> bool:
            return len(await serving(bus)) == len(files)

        async with running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()):
            await eventually(all_serve)


def tar_of(members: dict[str, bytes | None], **options: Any) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", **options) as tar:
        for path, content in members.items():
            member = tarfile.TarInfo(path)
            if content is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
                continue
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


async def entries_of(tar: bytes, step: int = 1000) -> dict[str, tuple[bytes | None, str | None]]:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(tar), step):
            yield tar[at : at + step]

    found: dict[str, tuple[bytes | None, str | None]] = {}
    async for entry in unpacked(parts()):
        content = None if entry.content is None else b"".join([part async for part in entry.content])
        found[entry.path] = (content, entry.expected)
    return found


LONG = "x" * 90 + "/" + "y" * 200 + ".txt"


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("step", [1, 511, 100_000])
async def test_a_tar_is_read_whoever_made_it_and_however_it_arrives(format_: int, step: int) -> None:
    members: dict[str, bytes | None] = {
        "./a.py": b"a",
        "folder": None,
        "folder/é.txt": b"x" * 1024,
        LONG: b"",
        "folder/.wh.gone.py": b"",
        ".wh.top": b"",
    }
    assert await entries_of(tar_of(members, format=format_), step) == {
        "a.py": (b"a", None),
        "folder/é.txt": (b"x" * 1024, None),
        LONG: (b"", None),
        "folder/gone.py": (None, None),
        "top": (None, None),
    }


def sparse(**of_member: Any) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a")
        for name, value in of_member.items():
            setattr(member, name, value)
        tar.addfile(member)
    return made.getvalue()


async def test_what_is_no_tar_of_files_is_malformed() -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(link)
    good = tar_of({"a": b"a" * 5000})
    holes = sparse(type=tarfile.GNUTYPE_SPARSE), sparse(pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "a"})
    for wrong in (b"", b"x" * 600, b"{}", good[:700], good[:100], made.getvalue(), b"x" * 512 + good, *holes):
        with pytest.raises(Malformed):
            await entries_of(wrong)


async def test_content_of_a_tar_is_in_the_bucket_in_the_order_of_its_members(place: Place) -> None:
    members: dict[str, bytes | None] = {f"{number}.bin": os.urandom(1000 if number % 3 else 400_000) for number in range(12)}

    async def parts() -> AsyncIterator[bytes]:
        yield tar_of(members)

    async with bus_of(place, "gateway") as bus:

        class Gateway:
            workspace = Blobs(bus.client, "workspace")
            max_file = 1_000_000

        stored = await _stored(unpacked(parts()), Gateway())  # type: ignore[arg-type]
        assert {change.path for change in stored} == set(members)
        for change in stored:
            assert await Gateway.workspace.read(change.sha256 or "") == members[change.path]


@contextlib.asynccontextmanager
async def served(place: Place, data: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        running(place, "executor", MILLRACE_DATA=str(data / "executor"), **sandbox_settings()),
        running(place, "gateway", MILLRACE_PORT="0", MILLRACE_MAX_FILE="300000") as runtime,
        aiohttp.ClientSession(
            base_url=runtime.health.document()["url"],
            headers={"Authorization": f"Bearer {place.credentials.admin_key}"},
        ) as session,
    ):
        yield session


COMMITS = "/api/v1/workspace/commits"


async def test_a_commit_comes_as_json_or_as_a_tar_and_answers_as_put_of_each_file_does(place: Place, data: Path) -> None:
    async with served(place, data) as session:

        async def post(body: Any, media: str | None = None) -> tuple[int, Any]:
            given = {"json": body} if media is None else {"data": body, "headers": {"Content-Type": media}}
            async with session.post(COMMITS, **given) as response:
                return response.status, await response.json()

        encoded = base64.b64encode(flow("a")).decode()
        status, answer = await post({"files": {"a.py": encoded, "d/e.txt": ""}, "message": "first"})
        assert (status, answer["problems"], set(answer["files"])) == (200, [], {"a.py", "d/e.txt"})
        async with session.put("/api/v1/workspace/files/a.py", data=flow("a")) as response:
            view = await response.json()
        assert {**answer["files"]["a.py"], "updated_at": ""} == {**view, "updated_at": ""}

        tar = tar_of({"./b.py": flow("b"), "large.bin": b"x" * 200_000, "d/.wh.e.txt": b""})
        status, answer = await post(tar, "application/x-tar")
        assert (status, answer["files"]["d/e.txt"], answer["files"]["b.py"]["workflows"]) == (200, None, ["b"])
        assert answer["files"]["large.bin"]["size"] == 200_000

        refused = [
            (await post({"files": {"c.py": encoded, "../c.py": encoded}}), 422),
            (await post({"files": {"c.py": encoded, "d.py": "no base64"}}), 422),
            (await post({"files": {}}), 422),
            (await post({"files": {"c.py": encoded}, "unknown": 1}), 422),
            (await post({"files": {"c.py": encoded, "a.py": encoded}, "expected": {"a.py": None}}), 412),
            (await post({"files": {"c.py": encoded}, "expected": {"c.py": "0" * 64}}), 412),
            (await post({"files": {"c.py": encoded}, "expected": {"a.py": None}}), 422),
            (await post(tar_of({"c.py": flow("c"), "huge.bin": b"x" * 300_001}), "application/x-tar"), 413),
            (await post(io.BytesIO(tar_of({f"{n}.txt": b"" for n in range(MOST_CHANGES + 1)})), "application/x-tar"), 413),
            (await post(tar[:700], "application/x-tar"), 400),
            (await post(b"{}", "text/plain"), 415),
        ]
        assert [(status, wanted) for (status, _), wanted in refused if status != wanted] == []
        async with session.get("/api/v1/workspace/files") as response:
            assert [view["path"] for view in (await response.json())["items"]] == ["a.py", "b.py", "large.bin"]
