"""docs/security-tests.md names a test for each attack: they are all there, where it says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| [^|]+ \| ([a-z_0-9/]+) \| `(test_\w+)` \|$", re.MULTILINE)


def test_every_test_that_the_security_page_names_is_there() -> None:
    rows = ROW.findall((ROOT / "docs" / "security-tests.md").read_text("utf-8"))
    assert len(rows) > 50
    missing = [(file, name) for file, name in rows if not any(f"def {name}(" in path.read_text("utf-8") for path in places(file))]
    assert missing == []


def places(file: str) -> list[Path]:
    folder, _, name = file.rpartition("/")
    tests = ROOT / "tests" / (folder or "integration")
    return [path for path in (tests / f"test_sandbox_{name}.py", tests / f"test_{name}.py") if path.exists()]


def test_every_attack_of_the_list_is_in_a_row() -> None:
    named = {name for _, name in ROW.findall((ROOT / "docs" / "security-tests.md").read_text("utf-8"))}
    attacks = (ROOT / "tests" / "integration" / "test_sandbox_attacks.py").read_text("utf-8")
    there = set(re.findall(r"^def (test_\w+)\(", attacks, re.MULTILINE))
    assert there - named == {"test_the_probe_finds_nothing_here_and_does_find_what_is_open"}
