"""Files beside the code: runs read them next to their modules, at the version that they were asked for with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from services.executor import domain
from shared.envelope import new_id
from shared.questions.files import RemoveFile
from tests.support.river import river
from tests.support.sandbox import KINDS, UID, Recorded, reachable_interpreter, started_bench, value
from tests.support.servers import Place

FLOW = b"""
import hashlib
import importlib.resources
from pathlib import Path

from millrace import workflow

HERE = Path(__file__).parent


@workflow
def reads() -> list[str]:
    return [(HERE / "query.sql").read_text(), importlib.resources.files("flows").joinpath("query.sql").read_text()]


@workflow
def names() -> list[str]:
    return sorted(str(path.relative_to(HERE.parent)) for path in HERE.parent.rglob("*") if path.suffix not in {".pyc", ""})


@workflow
def digests() -> dict:
    files = [path for path in HERE.parent.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    return {str(path.relative_to(HERE.parent)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
"""


async def test_a_changed_file_beside_the_code_makes_a_new_version_and_older_runs_have_the_older_file(
    place: Place, data: Path
) -> None:
    async with river(place, data) as outside:
        await outside.put_file("flows/query.sql", b"SELECT 1")
        assert (await outside.put_file("flows/main.py", FLOW)).problems == []
        older = await outside.version("reads")
        assert (await outside.run(await outside.request("reads"), "succeeded")).result == ["SELECT 1"] * 2
        await outside.put_file("flows/query.sql", b"SELECT 2")
        assert await outside.version("reads") != older
        assert (await outside.run(await outside.request("reads"), "succeeded")).result == ["SELECT 2"] * 2
        assert (await outside.run(await outside.request("reads", version=older), "succeeded")).result == ["SELECT 1"] * 2


async def test_hidden_files_caches_and_what_runs_write_are_in_no_bundle(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        await outside.put_file("flows/main.py", FLOW)
        before = await outside.version("names")
        for path in (".env.txt", "flows/.secret.txt", "node_modules/a.js", "data/rows.csv"):
            await outside.put_file(path, b"x")
        assert await outside.version("names") == before
        await outside.put_file("ca.pem", b"x")
        assert (await outside.run(await outside.request("names"), "succeeded")).result == ["ca.pem", "flows/main.py"]


async def test_a_file_beyond_the_bound_is_named_and_stays_as_it_is_in_service(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "LARGEST_FILE", 1000)
    async with river(place, data) as outside:
        await outside.put_file("flows/query.sql", b"SELECT 1")
        await outside.put_file("flows/main.py", FLOW)
        view = await outside.put_file("flows/query.sql", b"x" * 1001)
        (problem,) = view.problems
        assert (problem.path, problem.severity, "1001 bytes" in problem.message) == ("flows/query.sql", "error", True)
        assert (await outside.run(await outside.request("reads"), "succeeded")).result == ["SELECT 1"] * 2
        assert (await outside.put_file("flows/query.sql", b"SELECT 2")).problems == []
        assert (await outside.run(await outside.request("reads"), "succeeded")).result == ["SELECT 2"] * 2


async def test_files_that_are_replaced_by_larger_ones_do_not_add_up(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "LARGEST_FILE", 1000)
    monkeypatch.setattr(domain, "LARGEST_BUNDLE", 3000)
    async with river(place, data) as outside:
        await outside.put_file("flows/main.py", FLOW)
        await outside.put_file("a.bin", b"a" * 1000)
        await outside.put_file("b.bin", b"b" * 1000)
        await outside.put_file("a.bin", b"a" * 1001)
        assert (await outside.run(await outside.request("names"), "succeeded")).result == ["a.bin", "b.bin", "flows/main.py"]
        # As it was it has no room any more.
        view = await outside.put_file("c.bin", b"c" * 1000)
        assert [one.path for one in view.problems] == ["a.bin"]
        assert (await outside.run(await outside.request("names"), "succeeded")).result == ["b.bin", "c.bin", "flows/main.py"]


async def test_a_file_that_is_removed_is_in_no_newer_version(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        content = bytes(range(256)) * 5000
        await outside.put_file("flows/main.py", FLOW)
        await outside.put_file("flows/Grüße 100 % 'sûr'.bin", content)
        older = await outside.version("digests")
        given = {"flows/Grüße 100 % 'sûr'.bin": hashlib.sha256(content).hexdigest()}
        assert (await outside.run(await outside.request("digests"), "succeeded")).result == given
        await outside.bus.ask(RemoveFile(id=new_id(), org="default", actor="test", path="flows/Grüße 100 % 'sûr'.bin"))
        assert (await outside.run(await outside.request("digests"), "succeeded")).result == {}
        assert (await outside.run(await outside.request("digests", version=older), "succeeded")).result == given


async def test_files_without_any_code_are_kept_and_serve_nothing(place: Place, data: Path) -> None:
    async with river(place, data) as outside:
        view = await outside.put_file("README.md", b"x")
        assert (view.workflows, view.problems) == ([], [])


READER = """
import importlib.resources
from pathlib import Path
from millrace import workflow
@workflow
def main():
    file = Path(__file__).parent / "queries" / "query.sql"
    found = [file.read_text(), importlib.resources.files("flow.queries").joinpath("query.sql").read_text()]
    found.append(importlib.resources.read_binary("flow", "ca.pem").decode())
    for change in (lambda: file.write_text("changed"), file.unlink, lambda: file.chmod(0o777), file.with_name("new").touch):
        try:
            change()
        except OSError:
            found.append("refused")
    return found
"""


@pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")
@pytest.mark.parametrize("kind", KINDS)
async def test_every_run_of_a_tier_reads_files_beside_its_module_and_cannot_change_them(kind: str) -> None:
    async with started_bench(kind=kind) as bench:
        bundle = bench.bundle(flow____init__="", flow__main=READER)
        queries = bundle / "flow" / "queries"
        queries.mkdir()
        (queries / "query.sql").write_text("SELECT 1")
        (bundle / "flow" / "ca.pem").write_text("certificate")
        for file in (queries / "query.sql", bundle / "flow" / "ca.pem"):
            file.chmod(0o444)
        queries.chmod(0o755)
        job = msgspec.structs.replace(
            bench.job("@workflow\ndef main(): ..."), bundle=bundle, module="flow/main.py", function="main"
        )
        # The third is forked from a template, where there are any.
        for _ in range(3):
            assert value(await bench.children.run(job, Recorded())) == ["SELECT 1"] * 2 + ["certificate"] + ["refused"] * 4
