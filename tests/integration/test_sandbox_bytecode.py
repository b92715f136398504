"""Modules are compiled once, in a child that executes nothing, and runs import what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from services.executor.sandbox.interface import Job, Outcome
from services.executor.workspaces.bytecode import cached, lay
from tests.support.sandbox import KINDS, UID, Bench, Recorded, reachable_interpreter, started_bench, value

pytestmark = pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter for the sandbox's user")

FLOW = """
from lib.deep import answer
from millrace import workflow
@workflow
def main(): return answer()
"""


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with started_bench(kind=request.param) as made:
        yield made


def paths(bundle: Path) -> list[str]:
    return sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*.py"))


async def run(bench: Bench, bundle: Path) -> Outcome:
    job: Job = msgspec.structs.replace(bench.job("@workflow\ndef main(): ..."), bundle=bundle, module="flow.py", function="main")
    return await bench.children.run(job, Recorded())


async def test_runs_import_what_was_compiled_and_name_their_files_all_the_same(bench: Bench) -> None:
    deep = "def answer():\n    return 1\ndef fail():\n    raise LookupError('here')\n"
    bundle = bench.bundle(flow=FLOW, lib__deep=deep, lib____init__="")
    await lay(bundle, paths(bundle), bench.children.compile)
    assert all(cached(bundle, path).stat().st_mode & 0o777 == 0o444 for path in paths(bundle))
    assert cached(bundle, "lib/deep.py").parent == bundle / "lib" / "__pycache__"
    # The source is not what is executed: nobody compares the two.
    (bundle / "lib" / "deep.py").write_text(deep.replace("return 1", "return 2"))
    assert value(await run(bench, bundle)) == 1
    failing = bench.bundle(flow=FLOW.replace("answer", "fail"), lib__deep=deep, lib____init__="")
    await lay(failing, ["lib/deep.py"], bench.children.compile)
    outcome = await run(bench, failing)
    assert outcome.error is not None
    assert "lib/deep.py\", line 4, in fail\n    raise LookupError('here')" in outcome.error.traceback


async def test_compiling_executes_nothing_and_what_cannot_be_compiled_is_left_to_its_run(bench: Bench) -> None:
    bundle = bench.bundle(
        flow=FLOW, lib__deep="import os\nos._exit(9)", broken="def (:", deep="(" * 5000 + ")" * 5000, nul="x = '\0'", fine="x = 1"
    )
    found = await bench.children.compile(bundle, [*paths(bundle), "absent.py"])
    assert {path for path, data in found.items() if data is None} == {"absent.py", "broken.py", "deep.py", "nul.py"}
    await lay(bundle, paths(bundle), bench.children.compile)
    assert [path for path in paths(bundle) if cached(bundle, path).exists()] == ["fine.py", "flow.py", "lib/deep.py"]
    (bundle / "flow.py").write_text("import broken")
    cached(bundle, "flow.py").unlink()
    outcome = await run(bench, bundle)
    assert outcome.error is not None
    assert outcome.error.type == "SyntaxError"


async def test_what_is_long_is_compiled_in_several_goes(bench: Bench) -> None:
    bundle = bench.bundle(**{f"m{number}": f"x = '{'y' * 1_500_000}{number}'" for number in range(6)})
    first = await bench.children.compile(bundle, paths(bundle))
    assert 0 < len(first) < 6
    await lay(bundle, paths(bundle), bench.children.compile)
    assert all(cached(bundle, path).exists() for path in paths(bundle))


async def test_a_compiler_is_asked_for_what_is_missing_and_believed_no_further(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    async def compiler(_tree: Path, missing: list[str]) -> dict[str, bytes | None]:
        asked.append(missing)
        return {missing[0]: b"x", "../elsewhere.py": b"y", "c.py": b"z"} if len(asked) < 3 else {}

    tree = tmp_path / "tree"
    tree.mkdir()
    await lay(tree, ["a.py", "b.py", "requirements.txt"], compiler)
    assert asked == [["a.py", "b.py"], ["b.py"]]
    await lay(tree, ["a.py", "b.py", "d.py"], compiler)
    assert asked[2:] == [["d.py"]]
    assert sorted(path.name for path in tmp_path.rglob("*.pyc")) == sorted(cached(tree, path).name for path in ("a.py", "b.py"))
