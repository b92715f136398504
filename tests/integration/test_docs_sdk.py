"""What the pages for authors show is what happens: each block is a file of a workspace, and its tests are run."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import millrace
from millrace import testing
from millrace._declare import REGISTRY
from tests.support.sandbox import UID, reachable_interpreter, started_bench
from tests.support.stack import ROOT

TEXT = "".join((ROOT / "docs" / name).read_text() for name in ("sdk.md", "runs.md", "state.md", "adapters.md", "connections.md"))
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
CASES = [(number, name) for number, block in enumerate(BLOCKS) for name in re.findall(r"^def (test_\w+)\(", block, re.MULTILINE)]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = len(REGISTRY)
    yield
    del REGISTRY[before:]


def loaded(number: int, folder: Path) -> ModuleType:
    path = folder / f"example_{number}.py"
    path.write_text(BLOCKS[number])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


@pytest.mark.parametrize(("number", "name"), CASES, ids=[name for _, name in CASES])
def test_the_tests_that_are_shown_pass(number: int, name: str, tmp_path: Path) -> None:
    getattr(loaded(number, tmp_path), name)()


def test_every_block_shows_its_own_test() -> None:
    assert {number for number, _ in CASES} == set(range(len(BLOCKS)))


@pytest.mark.skipif(UID is not None and reachable_interpreter() is None, reason="no interpreter that the sandbox's user can read")
async def test_every_block_can_be_deployed() -> None:
    async with started_bench() as bench:
        found = await bench.describe(**{f"example_{number}": block for number, block in enumerate(BLOCKS)})
    assert found.problems == []
    assert {one.path for one in (*found.workflows, *found.adapters)} == {f"example_{number}.py" for number in range(len(BLOCKS))}


@pytest.mark.parametrize("name", millrace.__all__)
def test_every_public_name_is_shown_in_an_example(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", block) for block in BLOCKS)


@pytest.mark.parametrize("name", testing.__all__)
def test_every_name_of_testing_is_told_of_and_says_what_it_is(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)
    assert inspect.getdoc(getattr(testing, name))


@pytest.mark.parametrize("name", [*inspect.signature(testing.run).parameters][2:])
def test_every_option_of_a_run_is_told_of(name: str) -> None:
    assert re.search(rf"testing\.run\(.*\b{name}\b", TEXT)
