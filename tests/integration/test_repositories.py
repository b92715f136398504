"""A workspace and a real bare repository: brought together in either direction, whoever edits, and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.executor.repositories import syncing
from services.executor.repositories.remote import Remotes
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, NotFound, PermissionDenied, Unavailable
from shared.questions import Page
from shared.questions.files import CommitFiles, FileChange, ListFiles
from shared.questions.repositories import Choice, LookAtRepository, Synced, SyncRepository, SyncStatus
from shared.resources.repository import Repository
from tests.support.inside import bus_of, eventually, running
from tests.support.remotes import TOKEN, Host, Remote, hosting
from tests.support.resources import putting, removing, ring, told
from tests.support.river import river, sandbox_settings
from tests.support.servers import Place

OPEN = {"MILLRACE_EGRESS_ALLOW": "127.0.0.1"}


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


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

            blob = await self.blobs.put(_once(content))
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


class House:
    """A running executor, and a host of repositories: each workspace is that of an organization of its own."""

    def __init__(self, bus: Bus, host: Host, folder: Path) -> None:
        self.bus = bus
        self._host = host
        self._folder = folder
        self._numbers = itertools.count()

    def sides(self) -> Sides:
        number = next(self._numbers)
        remote = self._host.add(Remote(self._folder / f"flows-{number}.git"))
        return Sides(self.bus, remote, f"org-{number}")


@pytest.fixture
async def house(place: Place, data: Path, tmp_path: Path) -> AsyncIterator[House]:
    chosen = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings(), **OPEN}
    with hosting(token=None) as host:
        async with running(place, "executor", **chosen), bus_of(place, "gateway") as bus:
            yield House(bus, host, tmp_path)


@pytest.fixture
def sides(house: House) -> Sides:
    return house.sides()


async def test_edit_locally_commit_remotely_sync_twice(sides: Sides) -> None:
    await sides.edit({"a.py": b"a = 1\n", "b.py": b"b = 1\n"})
    first = await sides.do()
    assert (first.to_pull, first.to_push, first.conflicts) == ([], ["a.py", "b.py"], [])
    assert sides.remote.files() == {"a.py": b"a = 1\n", "b.py": b"b = 1\n"}
    await sides.edit({"a.py": b"a = 2\n"})
    sides.remote.commit({"a.py": b"a = 1\n", "b.py": b"b = 2\n"})
    second = await sides.do(message="Count on")
    assert (second.to_pull, second.to_push, second.conflicts) == (["b.py"], ["a.py"], [])
    third = await sides.do()
    assert (third.to_pull, third.to_push, third.conflicts) == ([], [], [])
    assert await sides.local() == sides.remote.files() == {"a.py": b"a = 2\n", "b.py": b"b = 2\n"}
    newest, *others = sides.remote.log()
    assert len(others) == 2
    assert newest.id.decode() == second.commit
    assert newest.author == b"ada <millrace@localhost>"
    assert newest.message.startswith(b"Count on\n\nMillrace-Push: ")


async def test_the_last_file_of_a_folder_and_of_a_branch_is_removed_from_either_side(sides: Sides) -> None:
    await sides.edit({"a.py": b"a = 1\n", "b/c.py": b"c = 1\n"})
    await sides.do()
    for folder_kept in ({"a.py": b"a = 1\n"}, {}):
        await sides.edit({path: None for path in await sides.local() if path not in folder_kept})
        assert len((await sides.do()).to_push) == 1
        assert sides.remote.files() == folder_kept
    await sides.edit({"d/e.py": b"e = 1\n"})
    assert (await sides.do()).to_push == ["d/e.py"]
    sides.remote.commit({})
    assert (await sides.do()).to_pull == ["d/e.py"]
    await sides.edit({"f.py": b"f = 1\n"})
    assert (await sides.do()).to_push == ["f.py"]
    assert await sides.local() == sides.remote.files() == {"f.py": b"f = 1\n"}


async def test_conflicts_stay_until_they_are_settled_and_hold_up_nothing_else(sides: Sides) -> None:
    first: dict[str, bytes | None] = dict.fromkeys(("ours", "theirs", "content", "removed", "edited", "kept"), b"first\n")
    await sides.edit(first)
    await sides.do()
    await sides.edit(dict.fromkeys(("ours", "theirs", "content", "edited"), b"here\n") | {"removed": None, "own": b"own\n"})
    sides.remote.commit(dict.fromkeys(("ours", "theirs", "content", "removed"), b"there\n") | {"kept": b"there\n"})
    open_ = ["content", "edited", "ours", "removed", "theirs"]
    done = await sides.do()
    assert (done.to_pull, done.to_push, done.conflicts) == (["kept"], ["own"], open_)
    assert (await sides.do()).conflicts == open_
    found = await sides.status(contents=True)
    shown = {one.path: one for one in found.conflicts}
    assert [one and one.text for one in (shown["ours"].base, shown["ours"].ours, shown["ours"].theirs)] == [
        "first\n",
        "here\n",
        "there\n",
    ]
    assert (shown["removed"].ours, shown["edited"].theirs) == (None, None)
    assert shown["edited"].reason == "changed in the workspace, removed in the repository"
    blob = await sides.blobs.put(_once(b"both\n"))
    choices = [
        Choice(path="ours", take="ours"),
        Choice(path="theirs", take="theirs"),
        Choice(path="content", take="content", sha256=blob.sha256, size=blob.size),
        Choice(path="removed", take="theirs"),
        Choice(path="edited", take="theirs"),
    ]
    with pytest.raises(NotFound, match="kept is in no conflict"):
        await sides.do("resolve", choices=[Choice(path="kept", take="ours")])
    settled = await sides.do("resolve", choices=choices)
    assert settled.conflicts == []
    assert [one.path for one in (await sides.status()).to_push] == ["content", "ours"]
    assert (await sides.do("push")).to_push == ["content", "ours"]
    assert await sides.local() == sides.remote.files()
    assert sides.remote.files()["content"] == b"both\n"
    # What was changed here is given up, and what is only here goes.
    await sides.edit({"ours": b"again\n", "new": b"new\n"})
    given_up = await sides.do("discard")
    assert given_up.to_pull == ["new", "ours"]
    assert await sides.local() == sides.remote.files()


async def test_a_rewritten_branch_and_one_that_is_gone_are_refused_until_they_are_accepted(sides: Sides) -> None:
    await sides.edit({"a": b"1\n", "b": b"1\n"})
    first = (await sides.do()).commit
    sides.remote.commit({"a": b"2\n", "b": b"1\n"})
    await sides.do("pull")
    sides.remote.commit({"a": b"1\n", "c": b"3\n"}, parents=[first or ""])
    found = await sides.status()
    assert found.rewritten
    assert {one.path: one.change for one in found.to_pull} == {"a": "changed", "b": "removed", "c": "added"}
    for what in ("pull", "push", "sync", "discard"):
        with pytest.raises(Conflict, match="was rewritten"):
            await sides.do(what)
    assert (await sides.do("pull", accepts_history=True)).to_pull == ["a", "b", "c"]
    assert await sides.local() == sides.remote.files()
    # A history that has nothing to do with it.
    sides.remote.commit({"a": b"other\n"}, parents=[])
    with pytest.raises(Conflict, match="was rewritten"):
        await sides.do()
    await sides.do(accepts_history=True)
    assert await sides.local() == {"a": b"other\n"}
    sides.remote.branch = "other"
    sides.remote.commit({"z": b"1\n"}, parents=[])
    sides.remote.repo.refs.remove_if_equals(b"refs/heads/main", None)
    sides.remote.branch = "main"
    with pytest.raises(NotFound, match="it has no branch 'main'; there are: other"):
        await sides.do()
    # What a branch had is not removed with it.
    done = await sides.do(accepts_history=True)
    assert (done.to_pull, done.to_push) == ([], ["a"])
    assert sides.remote.files() == {"a": b"other\n"}


async def test_what_no_workspace_can_have_is_named_and_left_alone(sides: Sides) -> None:
    hostile: Any = {
        "good.py": b"good = 1\n",
        "run.sh": (0o100755, b"#!/bin/sh\n"),
        "link": (0o120000, b"/etc/passwd"),
        "module": (0o160000, b"1" * 40),
        "large.bin": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "UPPER.py": b"1\n",
        "upper.py": b"2\n",
        "\udcff.py": b"bytes\n",
        "line\nbreak.py": b"1\n",
        "turn\u202e.py": b"1\n",
        "e\u0301.py": b"1\n",
        "back\\slash.py": b"1\n",
        ".git/hooks/post-checkout": (0o100755, b"#!/bin/sh\ntouch /tmp/owned\n"),
        "sub/.GIT/config": b"[core]\n",
        "..": b"up\n",
        "x" * 300: b"long\n",
    }
    sides.remote.commit(hostile)
    done = await sides.do()
    assert (done.to_pull, done.to_push, done.conflicts) == (["good.py", "run.sh"], [], [])
    reasons = {one.path: one.reason for one in done.refused}
    assert len(reasons) == len(hostile) - 2
    assert reasons["link"] == "it is a symbolic link"
    assert reasons["module"] == "it is a submodule"
    assert "Git LFS" in reasons["large.bin"]
    assert "upper and lower case" in reasons["upper.py"]
    assert "git's own" in reasons["sub/.GIT/config"]
    assert reasons["\\xff.py"] == "its name is not UTF-8"
    assert await sides.local() == {"good.py": b"good = 1\n", "run.sh": b"#!/bin/sh\n"}
    # They stay as they are when something is pushed beside them; a mode stays with its file, also under another name.
    await sides.edit({"run.sh": None, "bin/start.sh": b"#!/bin/sh\n", "good.py": b"good = 2\n"})
    pushed = await sides.do()
    assert pushed.to_push == ["bin/start.sh", "good.py", "run.sh"]
    entries = sides.remote.entries()
    assert entries["bin/start.sh"] == (0o100755, b"#!/bin/sh\n")
    assert entries["good.py"] == (0o100644, b"good = 2\n")
    assert entries["link"] == (0o120000, b"/etc/passwd")
    # One of two names was there before: the other is refused on its way out as well.
    await sides.edit({"GOOD.md": b"1\n"})
    sides.remote.commit(
        {path: one for path, one in entries.items() if path.isprintable() and "/" not in path} | {"good.md": b"2\n"}
    )
    assert {one.path for one in (await sides.do()).refused} >= {"GOOD.md", "good.md"}


async def test_ignored_files_stay_here_and_a_folder_of_the_repository_is_the_workspace(sides: Sides) -> None:
    sides.spec = Repository(url=sides.remote.url, folder="apps/flows")
    sides.remote.commit({"README.md": b"above\n", "apps/flows/a.py": b"a = 1\n", "apps/other.py": b"o = 1\n"})
    await sides.edit({".gitignore": b"*.log\n!keep.log\n", "x.log": b"1\n", "keep.log": b"1\n", "data/rows": b"1\n"})
    done = await sides.do()
    assert (done.to_pull, done.to_push) == (["a.py"], [".gitignore", "keep.log"])
    assert set(sides.remote.files()) == {
        *("README.md", "apps/flows/a.py", "apps/other.py", "apps/flows/.gitignore", "apps/flows/keep.log")
    }
    shown = await sides.status()
    assert (shown.to_pull, shown.to_push, shown.conflicts) == ([], [], [])
    # A file becomes a folder, and a folder a file.
    await sides.edit({"a.py": None, "a.py/b.py": b"b = 1\n"})
    assert (await sides.do()).to_push == ["a.py", "a.py/b.py"]
    sides.remote.commit(
        {path: one for path, one in sides.remote.files().items() if "a.py/" not in path} | {"apps/flows/a.py": b"2\n"}
    )
    assert (await sides.do()).to_pull == ["a.py", "a.py/b.py"]
    assert (await sides.local())["a.py"] == b"2\n"


async def test_whoever_is_first_at_the_branch_the_other_looks_anew(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    await sides.edit({"a": b"1\n"})
    await sides.do()
    await sides.edit({"a": b"2\n"})
    pushes, push = itertools.count(), Remotes.push

    async def overtaken(*arguments: Any) -> str:
        if next(pushes) == 0:
            sides.remote.commit({"a": b"1\n", "b": b"theirs\n"})
        return await push(*arguments)

    monkeypatch.setattr(Remotes, "push", overtaken)
    done = await sides.do()
    assert (done.to_pull, done.to_push) == (["b"], ["a"])
    assert next(pushes) == 2
    assert await sides.local() == sides.remote.files() == {"a": b"2\n", "b": b"theirs\n"}
    # Two at once do one thing after the other.
    await sides.edit({"c": b"1\n"})
    both = await asyncio.gather(sides.do(), sides.do())
    assert sorted(one.to_push for one in both) == [[], ["c"]]


async def test_a_push_whose_answer_is_lost_is_found_though_both_sides_went_on(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sides.edit({"a": b"1\n"})
    await sides.do()
    push = Remotes.push

    async def unanswered(*arguments: Any) -> str:
        await push(*arguments)
        raise Unavailable("the answer was lost")

    await sides.edit({"a": b"2\n"})
    with monkeypatch.context() as patched:
        patched.setattr(Remotes, "push", unanswered)
        with pytest.raises(Unavailable, match="the answer was lost"):
            await sides.do()
    assert sides.remote.files() == {"a": b"2\n"}
    # Without the push on record, this would be changed on both sides.
    await sides.edit({"a": b"3\n"})
    sides.remote.commit({"a": b"2\n", "b": b"1\n"})
    done = await sides.do()
    assert (done.to_pull, done.to_push, done.conflicts) == (["b"], ["a"], [])
    assert await sides.local() == sides.remote.files() == {"a": b"3\n", "b": b"1\n"}


async def test_a_webhook_of_the_remote_leads_to_a_pull_with_the_organizations_own_secret(
    place: Place, data: Path, tmp_path: Path
) -> None:
    remote = Remote(tmp_path / "flows.git")
    async with river(place, data, **OPEN) as outside, running(place, "oauth"):
        with hosting() as host:
            host.add(remote)
            keyring = ring(place)
            source = await outside.source()
            await told(outside.bus, putting("secret", "git-token", keyring, value=TOKEN, readers="services"))
            await told(outside.bus, putting("secret", "platforms", keyring, org="global", value=TOKEN, readers="services"))
            await told(outside.bus, putting("repository", "flows", url=remote.url, secret="git-token", source="repo"))
            with pytest.raises(Invalid, match="already, which is the most"):
                await told(outside.bus, putting("repository", "second", url=remote.url))
            with pytest.raises(Conflict, match="repositories refer to source 'repo'"):
                await outside.bus.ask(removing("source", "repo"))
            remote.commit({"flows/hello.py": b"hello = 1\n"})
            delivery = await outside.webhook(source, {"ref": "refs/heads/main"})
            sides = Sides(outside.bus, remote, secret="git-token")

            async def pulled() -> bool:
                return await sides.local() == remote.files()

            await eventually(pulled)
            assert "the repository flows does" in str((await outside.delivery(delivery, "filtered")).reason)
            # One of the platform's is for its services, and not for where an organization says.
            sides.spec = Repository(url=remote.url, secret="platforms")
            with pytest.raises(NotFound, match="no secret 'platforms' of its own"):
                await sides.status()
            sides.spec = Repository(url=remote.url)
            with pytest.raises(PermissionDenied, match="its credential is missing"):
                await sides.status()


PATHS = ("a.py", "b/c.py", "b/d.txt", "e")
STEPS = ("sync", "sync", "pull", "push", "resolve")
# A step that ends here, before or after what it calls has happened, as when the process is killed or an answer is lost.
CRASHES = ("commit_with", "push", "append", "stored")
edits = st.tuples(st.sampled_from(("local", "remote")), st.sampled_from(PATHS), st.booleans())
steps = st.tuples(st.sampled_from(STEPS), st.none() | st.tuples(st.sampled_from(CRASHES), st.booleans()), st.booleans())


@contextlib.contextmanager
def crashing(patched: pytest.MonkeyPatch, where: str, *, before: bool) -> Iterator[None]:
    """Have a sync end at a certain place the first time that it comes there."""
    owner, name = {
        "commit_with": (syncing.commits, "commit_with"),
        "push": (Remotes, "push"),
        "append": (syncing, "_append"),
        "stored": (syncing.states, "stored"),
    }[where]
    real: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def crashed(*arguments: Any) -> Any:
        if not before:
            await real(*arguments)
        raise Unavailable("it has crashed")

    with patched.context() as context:
        context.setattr(owner, name, crashed)
        yield


class Model:
    """What may not be lost: what a side has changed since both were last alike is replaced by no sync."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides
        self.common: dict[str, bytes | None] = dict.fromkeys(PATHS)
        self.written = itertools.count()

    async def now(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        local, remote = await self.sides.local(), self.sides.remote.files()
        self.common |= {path: local.get(path) for path in PATHS if local.get(path) == remote.get(path)}
        return local, remote

    async def edit(self, side: str, path: str, *, gone: bool) -> None:
        content = b"content %d\n" % next(self.written)
        if side == "local":
            await self.sides.edit({path: None if gone else content})
        else:
            others: Any = {one: kept for one, kept in self.sides.remote.files().items() if one != path}
            self.sides.remote.commit(others | ({} if gone else {path: content}))
        await self.now()

    async def step(self, what: str, crash: tuple[str, bool] | None, patched: pytest.MonkeyPatch, *, theirs: bool) -> None:
        local, remote = await self.now()
        common, settled, done = dict(self.common), set[str](), None
        crashes = contextlib.nullcontext() if crash is None else crashing(patched, crash[0], before=crash[1])
        with crashes, contextlib.suppress(Unavailable):
            if what == "resolve":
                settled = {one.path for one in (await self.sides.status()).conflicts}
                choices = [Choice(path=path, take="theirs" if theirs else "ours") for path in sorted(settled)]
                done = await self.sides.do("resolve", choices=choices) if choices else None
            else:
                done = await self.sides.do(what)
        after_local, after_remote = await self.now()
        for path in PATHS:
            ours, theirs_ = local.get(path), remote.get(path)
            assert after_local.get(path) in ((ours,) if ours != common[path] and path not in settled else (ours, theirs_))
            assert after_remote.get(path) in ((theirs_,) if theirs_ != common[path] or path in settled else (theirs_, ours))
        # A person has seen what the repository has there: the workspace's content may go over it from now on.
        self.common |= {path: remote.get(path) for path in settled}
        if what == "sync" and done is not None:
            again = await self.sides.do()
            assert (again.to_pull, again.to_push, again.conflicts) == ([], [], done.conflicts)
            assert done.conflicts or after_local == after_remote


@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(edits | steps, min_size=6, max_size=14))
async def test_whatever_is_edited_and_whoever_dies_nothing_is_lost(
    house: House, monkeypatch: pytest.MonkeyPatch, story: Any
) -> None:
    model = Model(house.sides())
    for one in story:
        if one[0] in {"local", "remote"}:
            await model.edit(one[0], one[1], gone=one[2])
        else:
            await model.step(one[0], one[1], monkeypatch, theirs=one[2])
    # After all that has happened a sync ends, and once people have decided both sides are alike.
    await model.step("sync", None, monkeypatch, theirs=False)
    await model.step("resolve", None, monkeypatch, theirs=True)
    await model.step("sync", None, monkeypatch, theirs=False)
    local, remote = await model.now()
    assert local == remote
