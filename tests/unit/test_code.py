"""Which code a workflow may load: what it names, and whatever that names."""

from __future__ import annotations

import tracemalloc
import unicodedata
from pathlib import Path

import pytest

from services.executor import domain
from services.executor.workspaces.code import Words, is_same_code
from shared.errors import Invalid

# Modules of a workspace, by path; `flow.py` is the one that a run loads first.
TREE = {
    "flow.py": "import helper\nfrom pkg.sub import thing\n",
    "helper.py": "VALUE = 1\n",
    "pkg/__init__.py": "",
    "pkg/sub.py": "from . import deep\nthing = 1\n",
    "pkg/deep.py": "X = 1\n",
    "other.py": "Y = 1\n",
    "requirements.txt": "",
}


def same(folder: Path, new: dict[str, str], old: dict[str, str] | None = None) -> bool:
    for path, text in new.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return is_same_code("flow.py", TREE if old is None else old, new, Words(folder))


@pytest.mark.parametrize("path", ["flow.py", "helper.py", "pkg/__init__.py", "pkg/sub.py", "pkg/deep.py", "requirements.txt"])
def test_what_a_workflow_loads_makes_it_another(tmp_path: Path, path: str) -> None:
    assert not same(tmp_path, TREE | {path: TREE[path] + "# changed\n"})
    assert not same(tmp_path, {name: text for name, text in TREE.items() if name != path})


def test_what_it_does_not_name_leaves_it_as_it_is(tmp_path: Path) -> None:
    assert same(tmp_path, TREE)
    assert same(tmp_path, TREE | {"other.py": "Y = 2\n", "new.py": "", "pkg/unnamed.py": ""})


@pytest.mark.parametrize("path", ["lib/helper.py", "lib/helper/__init__.py", "pkg/thing.py", "thing.py"])
def test_a_new_module_of_a_name_that_it_says_may_take_the_place_of_another(tmp_path: Path, path: str) -> None:
    assert not same(tmp_path, TREE | {path: ""})


@pytest.mark.parametrize("word", ["importlib.import_module(name)", "__import__(name)", "exec(text)", "__file__", "pkgutil.walk()"])
def test_code_that_may_load_anything_is_another_with_any_change(tmp_path: Path, word: str) -> None:
    dynamic = TREE | {"pkg/deep.py": f"{word}\n"}
    assert same(tmp_path, dynamic, dynamic)
    assert not same(tmp_path, dynamic | {"other.py": "Y = 2\n"}, dynamic)


def test_names_are_compared_as_python_does(tmp_path: Path) -> None:
    tree = {"flow.py": "import \ufb01le\n", "file.py": "A = 1\n"}
    assert not same(tmp_path, tree | {"file.py": "A = 2\n"}, tree)


def test_a_large_module_is_read_in_parts_that_part_no_word_and_in_bounded_memory(tmp_path: Path) -> None:
    # Every seventh word ends where some part does, and a mark follows its letter.
    words = [f"w{number}e\u0301" + "x" * (number % 7) for number in range(30_000)]
    (tmp_path / "flow.py").write_text(" ".join(words) + "\nimport helper")
    assert Words(tmp_path).of("flow.py") == {*(unicodedata.normalize("NFKC", word) for word in words), "import", "helper"}
    with (tmp_path / "large.py").open("w") as large:
        for number in range(210_000):
            large.write(f"'key{number:09}',")
    (tmp_path / "word.py").write_text("x" * 3_000_000)
    tracemalloc.start()
    try:
        # Neither can be known to load nothing else.
        assert "exec" in Words(tmp_path).of("large.py")
        assert "exec" in Words(tmp_path).of("word.py")
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("paths", [["../a"], ["x//y"], ["a", "a"], ["a\u2028b"]])
def test_a_commit_is_of_different_paths_that_can_be_some(paths: list[str]) -> None:
    with pytest.raises(Invalid):
        domain.check_changes(paths)


@pytest.mark.parametrize(("tree", "path"), [(["a", "a/b"], "a/b"), (["a", "a/b/c"], "a"), (["a.py", "A.py"], "A.py")])
def test_a_file_has_its_place_beside_all_others(tree: list[str], path: str) -> None:
    files = dict.fromkeys([*tree, "else/where"], "sha")
    with pytest.raises(Invalid):
        domain.check_places(files, [path])
    # What is wrong elsewhere, from before, is in nobody's way.
    domain.check_places(files, ["else/where"])


def test_a_file_may_take_the_place_of_a_folder_that_goes() -> None:
    assert domain.changed_tree({"a/b": "1", "c": "2"}, {"a/b": None, "a": "3"}) == {"a": "3", "c": "2"}
