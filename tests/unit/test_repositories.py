"""What goes which way between a workspace and a repository: disjoint by construction, alike afterwards, and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.events.repositories import Repositories
from services.executor.domain import changed_tree
from services.executor.repositories.decisions import agreed, decide, difference, explained, fitting_a_commit, moved_modes, settled
from shared.errors import Invalid
from shared.owners.rules import Draft
from shared.resources.repository import Repository

PATHS = ("a.py", "A.py", "b/c.py", "b", "d/e/f.txt", "data/x")
paths = st.sampled_from(PATHS)
contents = st.sampled_from(("one", "two", "three"))
sides = st.dictionaries(paths, contents)


@given(sides, sides, sides, st.dictionaries(paths, st.just("a link")), st.sets(paths))
def test_no_path_is_in_two_sets(
    base: dict[str, str], local: dict[str, str], remote: dict[str, str], refused: dict[str, str], ignored: set[str]
) -> None:
    remote = {path: one for path, one in remote.items() if path not in refused}
    found = decide(base, local, remote, refused, ignored)
    sets = [set(found.to_pull), set(found.to_push), set(found.conflicts), set(found.refused)]
    assert sum(map(len, sets)) == len(set().union(*sets))
    # Nothing goes over a change: what is replaced on a side is what both had last.
    assert all(local.get(path) == base.get(path) for path in found.to_pull)
    assert all(remote.get(path) == base.get(path) for path in found.to_push)
    # All else is alike, left alone, or is not pushed.
    rest = (local.keys() | remote.keys()) - set().union(*sets)
    assert all(local.get(path) == remote.get(path) or path in ignored for path in rest)


class TwoSides(RuleBasedStateMachine):
    """Two sides that are edited at random, with syncs of all, or of a part, that end anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.base: dict[str, str] = {}
        self.local: dict[str, str] = {}
        self.remote: dict[str, str] = {}
        self.written = 0

    def _edit(self, side: dict[str, str], path: str, *, gone: bool) -> None:
        if gone:
            side.pop(path, None)
        elif not any(
            one != path and (one.lower() == path.lower() or f"{one}/".startswith(f"{path}/") or f"{path}/".startswith(f"{one}/"))
            for one in side
        ):
            self.written += 1
            side[path] = f"content {self.written}"

    @rule(path=paths, gone=st.booleans())
    def edit_locally(self, path: str, gone: bool) -> None:
        self._edit(self.local, path, gone=gone)

    @rule(path=paths, gone=st.booleans())
    def commit_remotely(self, path: str, gone: bool) -> None:
        self._edit(self.remote, path, gone=gone)

    @rule(ends=st.sampled_from(("never", "pushed", "after pull")), part=st.none() | paths)
    def sync(self, ends: str, part: str | None) -> None:
        found = decide(self.base, self.local, self.remote, {})
        pulled = {path: one for path, one in found.to_pull.items() if part in (None, path)}
        pushed = {path: one for path, one in found.to_push.items() if part in (None, path)}
        # Files and what both had last change at once.
        self.local = changed_tree(self.local, pulled)
        self.base = settled(agreed(self.base, self.remote, found), found.to_pull.keys() - pulled.keys(), self.base)
        if ends == "after pull":
            return
        self.remote = changed_tree(self.remote, pushed)
        if ends == "pushed":
            return
        self.base = settled(self.base, pushed, self.local)
        if part is None:
            again = decide(self.base, self.local, self.remote, {})
            assert not again.to_pull
            assert not again.to_push
            assert again.conflicts == found.conflicts
            assert again.refused == found.refused
            if again.is_nothing and not again.refused:
                assert self.local == self.remote

    @rule(path=paths, take=st.sampled_from(("ours", "theirs")))
    def resolve(self, path: str, take: str) -> None:
        if path not in decide(self.base, self.local, self.remote, {}).conflicts:
            return
        self.base = settled(self.base, [path], self.remote)
        if take == "theirs":
            self.local = changed_tree(self.local, {path: self.remote.get(path)})
        assert path not in decide(self.base, self.local, self.remote, {}).conflicts

    @invariant()
    def nothing_goes_over_a_change(self) -> None:
        found = decide(self.base, self.local, self.remote, {})
        assert all(self.local.get(path) == self.base.get(path) for path in found.to_pull)
        assert all(self.remote.get(path) == self.base.get(path) for path in found.to_push)


TestTwoSides = TwoSides.TestCase


def test_a_name_that_differs_in_case_only_is_refused_and_a_rename_of_case_is_not() -> None:
    found = decide({}, {"a.py": "1"}, {"A.py": "2"}, {})
    assert (found.to_pull, found.to_push) == ({}, {})
    assert set(found.refused) == {"a.py", "A.py"}
    renamed = decide({"a.py": "1"}, {"a.py": "1"}, {"A.py": "1"}, {})
    assert renamed.to_pull == {"a.py": None, "A.py": "1"}


def test_a_file_that_became_a_folder_comes_and_one_that_is_in_the_way_stays() -> None:
    assert decide({"a": "1"}, {"a": "1"}, {"a/b": "2"}, {}).to_pull == {"a": None, "a/b": "2"}
    found = decide({"a": "1"}, {"a": "own"}, {"a/b": "2"}, {})
    assert found.conflicts == ("a",)
    assert set(found.refused) == {"a/b"}


@pytest.mark.parametrize(
    ("base", "local", "remote", "words"),
    [
        ("1", "2", "3", "changed in both"),
        ("1", None, "3", "removed in the workspace, changed in the repository"),
        ("1", "2", None, "changed in the workspace, removed in the repository"),
        (None, "2", "3", "added to both with different content"),
    ],
)
def test_a_conflict_says_what_each_side_did(base: str | None, local: str | None, remote: str | None, words: str) -> None:
    of = [{} if one is None else {"a": one} for one in (base, local, remote)]
    assert decide(*of, {}).conflicts == ("a",)
    assert explained("a", *of) == words


def test_a_commit_takes_the_first_paths_that_fit() -> None:
    assert fitting_a_commit(["b", "a"]) == ["a", "b"]
    assert len(fitting_a_commit(f"{number}" for number in range(5000))) == 4000
    assert len(fitting_a_commit("x" * 900 + f"{number:04}" for number in range(1000))) == 512 * 1024 // 904


def test_an_ignored_file_is_pushed_only_where_the_repository_has_it() -> None:
    assert decide({}, {"a.log": "1"}, {}, {}, {"a.log"}).is_nothing
    assert decide({"a.log": "1"}, {"a.log": "2"}, {"a.log": "1"}, {}, {"a.log"}).to_push == {"a.log": "2"}


def test_a_renamed_file_keeps_its_mode() -> None:
    assert moved_modes({"run.sh": "1"}, {"run.sh": None, "bin/run.sh": "1", "b": "2"}, {"run.sh"}) == {"bin/run.sh"}


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh0dHBzOi8vZXhhbXBsZS5vcmcvZXhhbXBsZQ"
SSH = {"url": "ssh://git.example.org/acme/flows.git", "secret": "key", "host_key": HOST_KEY}


def draft(**fields: Any) -> Draft[Repository]:
    spec = Repository(**({"url": "https://git.example.org/acme/flows.git"} | fields))
    return Draft(id="r", org="acme", name="flows", spec=spec, before=None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "https://ada:secret@git.example.org/a.git"}, "url"),
        ({"url": "git@git.example.org:a.git"}, "url"),
        ({"url": "file:///etc"}, "url"),
        ({"url": "git://git.example.org/a.git"}, "url"),
        ({"url": "https://git.example.org/"}, "url"),
        ({"url": "https://git.example.org/a.git?x=1"}, "url"),
        ({"url": "https://git.example.org:99999/a.git"}, "url"),
        ({"url": "https://git.example.org/a b.git"}, "url"),
        ({"url": "https:///a.git"}, "url"),
        ({"branch": "-main"}, "branch"),
        ({"branch": "a..b"}, "branch"),
        ({"branch": "a.lock"}, "branch"),
        ({"branch": "a\n"}, "branch"),
        ({"folder": "../up"}, "folder"),
        ({"folder": "/abs"}, "folder"),
        ({"folder": "a/"}, "folder"),
        ({"secret": "a", "connection": "b"}, "secret"),
        ({"author_email": "a <b@c>"}, "author_email"),
        ({"host_key": HOST_KEY}, "host_key"),
        (SSH | {"host_key": None}, "host_key"),
        (SSH | {"host_key": "AAAA"}, "host_key"),
        (SSH | {"secret": None}, "secret"),
        ({"source": "s", "event": "*.x"}, "event"),
    ],
)
async def test_a_repository_that_cannot_be_used_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        await Repositories().check(draft(**fields))
    assert [one.path for one in refused.value.errors] == [field]
    assert "secret@" not in refused.value.detail


@pytest.mark.parametrize("fields", [{}, {"branch": "team/flows-2.0", "folder": "apps/flows"}, SSH, SSH | {"url": "ssh://h:2222/a"}])
async def test_a_repository_that_can_be_used_is_taken_as_it_is(fields: dict[str, Any]) -> None:
    assert await Repositories().check(draft(**fields)) == draft(**fields).spec


def test_a_difference_is_a_unified_one_or_a_sentence() -> None:
    assert difference("a", b"x\n", b"y") == "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n\\ No newline at end of file\n"
    assert difference("a", None, b"x\n").startswith("--- /dev/null\n+++ b/a\n")
    assert "no text" in difference("a", b"\xff", b"x")
    assert "too many lines" in difference("a", b"\n" * 10_000, b"x")
    assert "too large" in difference("a", b"x" * 1_000_000, b"x")
