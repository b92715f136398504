"""One name, one meaning: a public class of services and shared has its name to itself."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_two_public_classes_have_one_name() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for part in ("services", "shared") for path in (ROOT / part).rglob("*.py")]
    named = Counter(
        node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert named.total() > 400
    assert sorted(name for name, count in named.items() if count > 1) == []
