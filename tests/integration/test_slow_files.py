"""A file whose import hangs costs one wait, not one for each file that is deployed beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executor.sandbox.children import Children
from services.executor.workspaces import slow
from tests.support.inside import bus_of
from tests.support.river import river
from tests.support.servers import Place

HANGS = b"from millrace import workflow\n@workflow\ndef hangs(): pass\nwhile True: pass\n"


def fine(name: str) -> bytes:
    return f"from millrace import workflow\n@workflow\ndef {name}(): pass\n".encode()


async def test_a_file_that_hangs_is_imported_once_and_the_others_are_served(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "PATIENCE", 0.5)
    describe = Children.describe
    told: list[bool] = []

    async def counting(self: Children, *given: object, **more: object) -> object:
        found = await describe(self, *given, **more)  # type: ignore[arg-type]
        told.append(any(one.is_slow for one in found.problems))
        return found

    monkeypatch.setattr(Children, "describe", counting)
    async with river(place, data) as outside:
        first = await outside.put_file("a.py", HANGS)
        assert [(one.path, one.line) for one in first.problems] == [("a.py", 4)]
        for name in ("b", "c"):
            view = await outside.put_file(f"{name}.py", fine(name))
            assert view.workflows == [name]
            assert [(one.path, one.line) for one in view.problems] == [("a.py", 4)]
        assert told.count(True) == 1
        # Whoever deploys it again wants to know.
        again = await outside.put_file("a.py", HANGS + b"# changed\n")
        assert [(one.path, one.line) for one in again.problems] == [("a.py", 4)]
        assert told.count(True) == 2
        mended = await outside.put_file("a.py", fine("a"))
        assert (mended.problems, mended.workflows) == ([], ["a"])


async def test_a_file_that_works_only_with_a_broken_one_is_told_too_and_the_rest_is_served(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("lib.py", b"from millrace import workflow\nold = 1\n@workflow\ndef first(): pass\n")
        await outside.put_file("lib.py", b"from millrace import workflow\nnew = 1\n@workflow\ndef first(a: complex): pass\n")
        view = await outside.put_file("user.py", b"from lib import new\n" + fine("user"))
        assert [(one.path, one.line) for one in view.problems] == [("lib.py", 3), ("user.py", 1)]
        other = await outside.put_file("other.py", fine("other"))
        assert other.workflows == ["other"]
        assert {one.path for one in other.problems} == {"lib.py", "user.py"}


async def test_an_organization_whose_served_code_cannot_be_read_can_deploy(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("a.py", fine("a"))
        version = await outside.version("a")
    async with bus_of(place, "admin") as admin:
        store = await admin.client.jetstream().object_store("workspace")
        await store.put(version, b"no manifest")
    async with river(place, data) as outside:
        view = await outside.put_file("b.py", fine("b"))
        assert (view.workflows, view.problems) == (["b"], [])


def test_what_was_slow_is_forgotten_after_a_while() -> None:
    from services.executor.sandbox.interface import BundleProblem

    now = 0.0
    known = slow.Slow(lambda: now)
    tree = {"a.py": "1", "b.py": "2"}
    known.record("o", tree, [BundleProblem("a.py", 4, "slow", is_slow=True), BundleProblem("b.py", 1, "broken")])
    assert [(one.path, one.line) for one in known.of("o", tree, ["b.py"])] == [("a.py", 4)]
    assert known.of("o", tree, ["a.py"]) == known.of("o", {"a.py": "3"}, ["b.py"]) == known.of("p", tree, ["b.py"]) == []
    assert (known.patience("o"), known.patience("p")) == (slow.FURTHER, slow.PATIENCE)
    now = slow.REMEMBERED + 1
    assert known.of("o", tree, ["b.py"]) == []
    assert known.patience("o") == slow.PATIENCE
