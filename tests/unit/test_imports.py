"""Imports that nothing provides, found by the text of a bundle."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from millrace._runtime.imports import Imports, Missing, advice

FOLDER = "from the workspace's folder"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def in_vain(bundle: Path, root: str = "flow_one.py", **texts: str) -> list[Missing]:
    """`a__b="…"` is the file a/b.py."""
    for name, text in texts.items():
        file = bundle / (name.replace("__", "/").replace("/init/", "/__init__") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    paths = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*.py"))
    found = Imports(str(bundle), paths)
    for path in paths:
        found.add(path, ast.parse((bundle / path).read_text()))
    return found.in_vain([root])


@pytest.mark.parametrize(
    "text",
    [
        "import os, json.decoder, xml.etree.ElementTree, __main__, sys\nfrom __future__ import annotations",
        "import millrace, millrace.testing\nfrom millrace import workflow",
        "import msgspec\nfrom msgspec import json",
        "try:\n    import nowhere\nexcept ImportError:\n    pass",
        "try:\n    from nowhere import x\nexcept (ValueError, ModuleNotFoundError) as error:\n    x = None",
        "try:\n    import nowhere\nexcept:\n    pass\nelse:\n    import nowhere.further",
        "try:\n    import tomllib\nexcept ImportError:\n    import nowhere as tomllib",
        "from contextlib import suppress\nwith suppress(ImportError):\n    import nowhere",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere",
        "import typing\nif not typing.TYPE_CHECKING:\n    pass\nelse:\n    import nowhere",
        "import sys\nif sys.version_info >= (3, 11):\n    import tomllib\nelse:\n    import nowhere",
        "import sys\nif sys.version_info[0] == 2 or sys.version_info[:2] < (3, 11):\n    import nowhere",
        "import sys\nif sys.platform == 'win32' or sys.platform.startswith('darwin'):\n    import nowhere",
        "import os\nif os.name == 'nt':\n    import nowhere",
        "from importlib.util import find_spec\nif find_spec('nowhere'):\n    import nowhere",
        "if __name__ == '__main__':\n    import nowhere",
    ],
)
def test_what_is_provided_or_expected_to_fail_is_no_problem(bundle: Path, text: str) -> None:
    assert in_vain(bundle, flow_one=text) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("import os\nimport nowhere", [2]),
        ("import os, nowhere.further as x, json", [1]),
        ("from nowhere import (\n    x,\n    y,\n)", [1]),
        ("def f():\n    if True:\n        import nowhere", [3]),
        ("class A:\n    async def f(self):\n        async with x:\n            import nowhere", [4]),
        ("try:\n    import nowhere\nexcept ValueError:\n    import elsewhere\nelse:\n    import further", [2, 4, 6]),
        ("try:\n    import nowhere\nexcept ImportError:\n    import elsewhere", [4]),
        ("try:\n    import json\nexcept ImportError:\n    pass\nfinally:\n    import nowhere", [6]),
        ("match x:\n    case 1:\n        import nowhere", [3]),
        ("if x:\n    pass\nelif y:\n    import nowhere\nelse:\n    import elsewhere", [4, 6]),
        ("import sys\nif sys.version_info >= (3, 11):\n    import nowhere", [3]),
        ("import sys\nif sys.version_info[0] != 2 or sys.version_info[x] or sys.version_info['a'] == 1:\n    import nowhere", [3]),
        ("if not TYPE_CHECKING and x:\n    import nowhere", [2]),
        ("while x:\n    import nowhere", [2]),
    ],
)
def test_what_nothing_provides_is_named_by_its_line(bundle: Path, text: str, lines: list[int]) -> None:
    found = in_vain(bundle, flow_one=text)
    assert [(path, line) for path, line, _ in found] == [("flow_one.py", line) for line in lines]
    assert all("nothing provides the module" in message for _, _, message in found)


def test_the_package_is_named_as_an_index_has_it(bundle: Path) -> None:
    ((_, _, message),) = in_vain(bundle, flow_one="import bs4.nowhere")
    assert message == "nothing provides the module bs4: name its package (beautifulsoup4) in requirements.txt"


def test_a_module_of_other_systems_is_not_looked_for_in_packages(bundle: Path) -> None:
    ((_, _, message),) = in_vain(bundle, flow_one="import winreg")
    assert "on this system has no module winreg" in message


def test_files_of_the_bundle_are_modules_by_their_path(bundle: Path) -> None:
    texts = {
        "flow_one": """
            import area.deep.leaf, area.plain
            from area import plain, deep
            from area.deep import leaf
            from area.deep.leaf import anything
            from area.packed import anything
            from area.dynamic.made import x
            import leaf
            import area.absent
            from area import absent2
            from area.plain.below import x
            from area.packed.absent3 import x
        """,
        "area__deep__leaf": "",
        "area__plain": "",
        "area__packed__init__": "",
        "area__dynamic__init__": "import sys\nsys.modules[__name__ + '.made'] = sys",
    }
    found = in_vain(bundle, **texts)
    assert [(line, message) for _, line, message in found] == [
        (
            8,
            f"nothing provides the module leaf: {advice('leaf')}, or import area/deep/leaf.py by its path {FOLDER}: area.deep.leaf",
        ),
        (9, "there is no module area.absent"),
        (10, "there is no module area.absent2"),
        (11, "there is no module area.plain.below"),
        (12, "there is no module area.packed.absent3"),
    ]


def test_relative_imports_are_followed_as_far_as_there_are_packages(bundle: Path) -> None:
    found = in_vain(
        bundle,
        root="area/deep/leaf.py",
        area__deep__leaf="""\
            from . import other
            from .. import plain
            from ..plain import x
            from . import absent
            from ... import x
        """,
        area__deep__other="",
        area__plain="",
        top="from . import x",
    )
    assert [line for _, line, _ in found] == [4, 5]
    assert found[1][2].startswith("... leads out of the workspace's folder")


def test_only_files_that_a_workflow_may_load_are_looked_at(bundle: Path) -> None:
    texts = {
        "flow_one": "def f():\n    from area import used\n",
        "area__init__": "import nowhere",
        "area__used": "from . import further",
        "area__further": "import elsewhere",
        "area__unused": "import nowhere",
        "tests__test_flow": "import nowhere, pytest",
    }
    assert [(path, line) for path, line, _ in in_vain(bundle, **texts)] == [("area/__init__.py", 1), ("area/further.py", 1)]


def test_code_that_is_nested_deeply_is_read_or_left_out(bundle: Path) -> None:
    chain = "".join(f"{'elif' if number else 'if'} a{number}:\n    pass\n" for number in range(900)) + "else:\n    import nowhere"
    tree = ast.parse("import nowhere")
    for _ in range(3000):
        tree.body = [ast.Try(body=tree.body, handlers=[ast.ExceptHandler(body=[])], orelse=[], finalbody=[])]
    found = Imports(str(bundle), ["flow_one.py"])
    found.add("flow_one.py", tree)
    assert found.in_vain(["flow_one.py"]) == []
    assert [line for _, line, _ in in_vain(bundle, flow_one=chain)] == [1802]


def test_the_problems_of_a_bundle_are_bounded(bundle: Path) -> None:
    assert len(in_vain(bundle, flow_one="\n".join(f"import nowhere{number}" for number in range(500)))) == 100
