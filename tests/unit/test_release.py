"""What a release says of itself: its version in one place, its packages, their licences."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.release import ReleaseError, build_twice, pins, release
from tests.reference import licences

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
# Where it is told of a version, and not which one this is.
TOLD = {"CHANGELOG.md", "pyproject.toml", "docs/kill-matrix.md", "docs/fuzz.md", "docs/upgrading.md"}


def test_the_version_stands_in_one_place_and_the_changes_are_of_it() -> None:
    assert importlib.metadata.version("millrace") == VERSION, "make install"
    said = re.findall(r"^## \[(\S+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert said[0] == VERSION
    assert said == sorted(said, key=lambda one: tuple(map(int, one.split("."))), reverse=True)
    found = subprocess.run(
        ["git", "grep", "-lE", rf"\bmillrace\b.*\b{re.escape(VERSION)}\b"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert set(found.stdout.split()) <= TOLD


@pytest.mark.parametrize("lock", ["requirements", "docs", "release"])
def test_a_lock_has_every_package_that_is_asked_for_in_a_version_that_fits(lock: str) -> None:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    asked = groups.get(lock, [*project["dependencies"], *chain(*project["optional-dependencies"].values())])
    pinned = pins((ROOT / f"{lock}.lock").read_text())
    for one in map(Requirement, asked):
        if one.marker is None or one.marker.evaluate():
            assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one


def test_every_package_may_be_had_by_a_licence_that_is_allowed() -> None:
    found = licences.packages() | licences.console()
    assert len(found) > 50
    assert {name: said for name, said in found.items() if not licences.is_allowed(said)} == {}, (
        "choose another package, or allow it"
    )


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("MIT", True),
        ("EPL-2.0 OR GPL-2.0-or-later", True),
        ("(MIT OR CC0-1.0)", True),
        ("Apache-2.0 AND MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("AGPL-3.0-only", False),
        ("unknown", False),
    ],
)
def test_one_licence_of_those_to_choose_from_and_all_of_those_together_must_be_allowed(said: str, allowed: bool) -> None:
    assert licences.is_allowed(said) is allowed


def test_nothing_is_released_of_what_is_not_committed(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "new.py").touch()
    with pytest.raises(ReleaseError, match=r"new\.py"):
        release(tmp_path, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_a_build_that_does_not_repeat_is_refused(tmp_path: Path) -> None:
    """A build that takes the time into the wheel, as hooks of builds like to."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one.py").touch()
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n[project]\nname = "one"\nversion = "1"\n'
        '[tool.hatch.build.targets.wheel.hooks.custom]\npath = "hook.py"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["one.py", "when.txt"]\nartifacts = ["when.txt"]\n'
    )
    (tree / "hook.py").write_text(
        "import pathlib, time\n"
        "from hatchling.builders.hooks.plugin.interface import BuildHookInterface\n"
        "class Hook(BuildHookInterface):\n"
        "    def initialize(self, version, build_data):\n"
        "        pathlib.Path(self.root, 'when.txt').write_text(str(time.time_ns()))\n"
    )
    with pytest.raises(ReleaseError, match=r"one-1-.*\.whl"):
        build_twice(tree, tmp_path / "dist", 1_700_000_000)
