"""Warnings of imports that nothing provides: with every deployment until they are gone, and nothing is kept from serving."""

from __future__ import annotations

from pathlib import Path

from services.executor import domain
from tests.support.river import river
from tests.support.servers import Place

LAZY = b"""
from millrace import workflow
@workflow
def main():
    import nowhere
@workflow
def other(): return 1
"""
LINE = ("flows/main.py", 5, "warning")


async def test_a_warning_keeps_nothing_from_serving_and_comes_until_it_is_gone(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        view = await outside.put_file("flows/main.py", LAZY)
        assert ([(one.path, one.line, one.severity) for one in view.problems], view.workflows) == ([LINE], ["main", "other"])
        run = await outside.run(await outside.request("main"), "failed")
        assert run.error is not None
        assert "hint: neither Python nor the workspace nor its packages have a module nowhere" in run.error.traceback
        # With the same content nothing is read again, and another file has another version of the same code.
        for path, content in (("flows/main.py", LAZY), ("data/rows.csv", b"x"), ("query.sql", b"x")):
            view = await outside.put_file(path, content)
            assert [(one.path, one.line, one.severity) for one in view.problems] == [LINE]
        assert (await outside.put_file("nowhere.py", b"")).problems == []
        assert (await outside.run(await outside.request("main"), "succeeded")).result is None


async def test_warnings_are_about_the_newest_content_where_that_does_not_serve(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("flows/main.py", LAZY)
        view = await outside.put_file("flows/main.py", LAZY + b"\n\n1 / 0\ndef f(): import elsewhere\n")
        assert [(one.line, one.severity) for one in view.problems] == [(10, "error"), (5, "warning"), (11, "warning")]
        assert (await outside.run(await outside.request("other"), "succeeded")).result == 1


async def test_a_file_that_was_never_small_enough_for_a_bundle_is_a_warning(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("flows/main.py", b"from millrace import workflow\n@workflow\ndef main(): return 1\n")
        (problem,) = (await outside.put_file("model.bin", b"x" * (domain.LARGEST_FILE + 1))).problems
        assert (problem.path, problem.severity) == ("model.bin", "warning")
        assert await outside.version("main")
