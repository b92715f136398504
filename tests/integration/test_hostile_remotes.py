"""What remotes try against those who look at them, behind every tier of walls: none of it gets anywhere, and each is named."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.executor.environments.disk import Disk
from services.executor.repositories.access import _target
from services.executor.repositories.libraries import place_of_libraries
from services.executor.repositories.remote import Access, FoundBranch, OutgoingCommit, Remotes
from services.executor.sandbox.builder import Builder, StepLimits
from services.executor.sandbox.interface import Tier
from shared.egress.policy import EgressRules, rules
from shared.egress.resolver import Resolver
from shared.errors import Conflict, Invalid, MillraceError, NotFound, PermissionDenied, TooLarge, Unavailable
from tests.support.remotes import GIT, TOKEN, Remote, by_git, served, serving
from tests.support.sandbox import TIERS, UID, reachable_interpreter
from tests.support.shells import new_key, shell

WALLED = tuple(tier for tier in TIERS if tier != "none")
LIMITS = StepLimits(seconds=30.0, bytes=24 << 20, files=5000, memory=1 << 30, processes=32, cores=1.0)


class Yard:
    """The ways to remotes in one tier, which may reach this machine."""

    def __init__(self, remotes: Remotes, disk: Disk) -> None:
        self.remotes = remotes
        self.disk = disk

    def access(self, url: str, **fields: Any) -> Access:
        given = {"branch": "main", "folder": "", "username": "oauth2", "password": TOKEN} | fields
        return Access(org="acme", url=url, target=_target(url), **given)

    @asynccontextmanager
    async def look(self, url: str, **fields: Any) -> AsyncIterator[FoundBranch]:
        looks = self.remotes.looking(
            self.access(url, **fields), since=None, pushes=(), have=(), new=(), ignoring={}, may_be_new=False
        )  # fmt: skip
        async with looks as found:
            yield found

    async def refusal(self, url: str, **fields: Any) -> MillraceError:
        with pytest.raises(MillraceError) as raised:
            async with self.look(url, **fields):
                pass
        told = raised.value.detail
        assert TOKEN not in told
        assert str(self.disk.folder) not in told
        return raised.value


@asynccontextmanager
async def yard(tier: Tier, *, allow: str = "127.0.0.1", limits: StepLimits = LIMITS) -> AsyncIterator[Yard]:
    with tempfile.TemporaryDirectory(prefix="mr-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        disk = Disk(folder / "repositories")
        disk.start()
        libraries = place_of_libraries(disk.folder)
        shown = [libraries]
        builder = Builder(
            folder / "sandbox", disk.folder, tier=tier, uid=UID, shown=shown, limits=limits, interpreter=reachable_interpreter()
        )  # fmt: skip
        resolver = Resolver()
        try:
            egress = EgressRules(rules(allow, allows=True) if allow else ())
            yield Yard(Remotes(disk, builder, libraries, egress, resolver), disk)
        finally:
            resolver.close()
            await builder.close()
            disk.close()


@pytest.fixture(params=WALLED)
def tier(request: pytest.FixtureRequest) -> Tier:
    return request.param


async def test_a_branch_is_looked_at_and_pushed_to_behind_every_wall(tier: Tier, tmp_path: Path) -> None:
    remote = Remote(tmp_path / "flows.git")
    remote.commit({"a.py": b"a = 1\n", "b/c.sh": (0o100755, b"#!/bin/sh\n")})
    async with yard(tier) as it:
        with served(remote):
            async with it.look(remote.url) as found:
                assert set(found.files) == {"a.py", "b/c.sh"}
                assert found.executable == {"b/c.sh"}
                assert b"".join([part async for part in found.content(found.files["a.py"])]) == b"a = 1\n"
                content = found.folder.parent / "content"
                content.write_bytes(b"a = 2\n")
                outgoing = OutgoingCommit(
                    id="one", author="Ada <ada@example.org>", at=1_700_000_000, message="Count on", changes={"a.py": "1" * 64},
                    executable=frozenset(),
                )  # fmt: skip
                commit = await it.remotes.push(it.access(remote.url), found, outgoing, {"1" * 64: content})
            assert remote.head == commit
            assert remote.entries() == {"a.py": (0o100644, b"a = 2\n"), "b/c.sh": (0o100755, b"#!/bin/sh\n")}
            assert isinstance(await it.refusal(remote.url, password="another"), PermissionDenied)
            assert isinstance(await it.refusal(remote.url + "x"), NotFound)
            assert "there are: main" in (await it.refusal(remote.url, branch="dev")).detail
        assert not [one for one in it.disk._own.iterdir() if one.name != "content"]  # type: ignore[union-attr]


@pytest.mark.skipif(
    GIT is None, reason="there is no git program here to serve a repository by; dulwich's server is tested all the same"
)
async def test_git_itself_is_understood_and_understands(tmp_path: Path) -> None:
    remote = Remote(tmp_path / "flows.git")
    async with yard(WALLED[0]) as it:
        with serving(by_git(tmp_path)) as url:
            async with it.look(f"{url}/flows.git") as found:
                assert (found.head, found.files) == (None, {})
                content = found.folder.parent / "content"
                content.write_bytes(b"first\n")
                outgoing = OutgoingCommit(
                    id="one", author="Ada <ada@example.org>", at=1, message="m", changes={"a": "1" * 64},
                    executable=frozenset({"a"}),
                )  # fmt: skip
                await it.remotes.push(it.access(f"{url}/flows.git"), found, outgoing, {"1" * 64: content})
            async with it.look(f"{url}/flows.git") as found:
                assert set(found.files) == found.executable == {"a"}
                remote.commit({"a": b"meanwhile\n"})
                with pytest.raises(Conflict, match="another newest commit"):
                    await it.remotes.push(it.access(f"{url}/flows.git"), found, outgoing, {"1" * 64: content})
            for number in range(60):
                remote.commit({"a": b"%d\n" % number})
            async with it.look(f"{url}/flows.git") as found:
                assert len(found.files) == 1
    remote.close()


async def test_a_host_is_known_by_its_pinned_key_and_shows_its_repositories_to_one_key(tier: Tier, tmp_path: Path) -> None:
    remote = Remote(tmp_path / "flows.git")
    remote.commit({"a": b"1\n"})
    async with yard(tier) as it, shell(tmp_path) as host:
        known = {"username": "git", "password": host.private_key, "host_key": host.host_key}
        async with it.look(f"{host.url}/flows.git", **known) as found:
            assert set(found.files) == {"a"}
            content = found.folder.parent / "content"
            content.write_bytes(b"2\n")
            outgoing = OutgoingCommit(
                id="one", author="Ada <ada@example.org>", at=1, message="m", changes={"a": "1" * 64}, executable=frozenset()
            )  # fmt: skip
            await it.remotes.push(it.access(f"{host.url}/flows.git", **known), found, outgoing, {"1" * 64: content})
        assert remote.files() == {"a": b"2\n"}
        another, public = new_key()
        for wrong, words in (
            ({"host_key": public}, "another key than the one that is pinned"),
            ({"host_key": None}, "the key cannot be used"),
            ({"password": another}, "refuses this key"),
            ({"password": "no key"}, "the key cannot be used"),
        ):
            told = await it.refusal(f"{host.url}/flows.git", **(known | wrong))
            assert isinstance(told, PermissionDenied), wrong
            assert words in told.detail
            assert not any(line in told.detail for line in host.private_key.splitlines()[1:-1])
        assert isinstance(await it.refusal(f"{host.url}/none.git", **known), Unavailable)
    remote.close()


Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def answering(content: Callable[[], Iterable[bytes]], kind: str = "application/x-git-upload-pack-advertisement") -> Answer:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [("Content-Type", kind)])
        return content()

    return answer


def _endless() -> Iterable[bytes]:
    yield b"001e# service=git-upload-pack\n0000"
    while True:
        yield b"003d" + b"1" * 40 + b" refs/heads/main\n"


def _redirecting(to: str) -> Answer:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("302 Found", [("Location", f"{to}{environ['PATH_INFO']}?{environ['QUERY_STRING']}")])
        return []

    return answer


async def test_answers_that_are_no_repository_are_told_as_such(tier: Tier) -> None:
    async with yard(tier, limits=StepLimits(seconds=8.0, bytes=8 << 20, files=500, memory=512 << 20, processes=8, cores=1.0)) as it:
        for content in (
            b"",
            b"<html>sign in</html>",
            b"\x00" * 100_000,
            b"0000",
            b"fffe" + b"x" * 70_000,
            b"001e# service=git-upload-pack\n0000",
        ):
            with serving(answering(lambda content=content: [content])) as url:
                assert isinstance(await it.refusal(f"{url}/a.git"), Invalid | Unavailable | NotFound | TooLarge), content[:20]
        with serving(answering(_endless)) as url:
            assert isinstance(await it.refusal(f"{url}/a.git"), Invalid | Unavailable | TooLarge)
        # Another host, or another port of this one, is not followed to, and is not shown the token.
        seen: list[str] = []

        def elsewhere(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            seen.append(environ.get("HTTP_AUTHORIZATION", ""))
            start("200 OK", [])
            return []

        with serving(elsewhere) as other, serving(_redirecting(other)) as url:
            assert isinstance(await it.refusal(f"{url}/a.git"), PermissionDenied | Unavailable)
        assert seen == []

        def echoing(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            start("200 OK", [("Content-Type", "application/x-git-upload-pack-advertisement")])
            words = f"ERR your token is {TOKEN}\x1b[2J, of {environ.get('HTTP_AUTHORIZATION', '')}\n".encode()
            return [b"001e# service=git-upload-pack\n0000", b"%04x" % (len(words) + 4) + words]

        with serving(echoing) as url:
            told = (await it.refusal(f"{url}/a.git")).detail
            assert "\x1b" not in told
            assert base64.b64encode(f"oauth2:{TOKEN}".encode()).decode()[12:-4] not in told
            assert "of Basic " in told


async def test_a_silent_remote_takes_its_time_and_no_more(tier: Tier) -> None:
    over = threading.Event()

    def silent(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        over.wait(60)
        start("200 OK", [])
        return []

    async with yard(tier, limits=StepLimits(seconds=5.0, bytes=8 << 20, files=500, memory=512 << 20, processes=8)) as it:
        with serving(silent) as url:
            try:
                async with asyncio.timeout(50):
                    assert isinstance(await it.refusal(f"{url}/a.git"), TooLarge | Unavailable)
            finally:
                over.set()


async def test_repositories_beyond_the_bounds_are_refused_and_their_files_named(tier: Tier, tmp_path: Path) -> None:
    many = Remote(tmp_path / "many.git")
    # The same folder again and again: small to send, and 2,000,000 files.
    inner = many._tree({f"{number}": (0o100644, b"") for number in range(100)})
    for _ in range(2):
        inner = _of_folders(many, inner)
    many.commit({})
    _with_tree(many, inner)
    random = Remote(tmp_path / "large.git")
    random.commit({f"{number}": os.urandom(3 << 20) for number in range(12)})
    async with yard(tier) as it:
        with served(many, random):
            assert "more than 20000 files and folders" in (await it.refusal(many.url)).detail
            told = await it.refusal(random.url)
            assert isinstance(told, TooLarge), told.detail


async def test_what_the_policy_does_not_open_is_not_reached(tmp_path: Path) -> None:
    remote = Remote(tmp_path / "flows.git")
    async with yard(WALLED[0], allow="") as it:
        with served(remote):
            for url in (
                remote.url,
                remote.url.replace("127.0.0.1", "localhost"),
                "http://169.254.169.254/latest/a.git",
                "http://10.1.2.3/a.git",
            ):
                told = await it.refusal(url)
                assert isinstance(told, PermissionDenied), url
                assert "may not be reached" in told.detail
                assert "MILLRACE_EGRESS_ALLOW" in told.detail


def _of_folders(remote: Remote, tree: Any) -> Any:
    from dulwich.objects import Tree

    made = Tree()
    for number in range(150):
        made.add(b"%03d" % number, 0o040000, tree)
    remote.repo.object_store.add_object(made)
    return made.id


def _with_tree(remote: Remote, tree: Any) -> None:
    commit = remote.log()[0].copy()
    commit.tree = tree
    remote.repo.object_store.add_object(commit)
    remote.repo.refs[remote.ref] = commit.id
