"""The migrations of each service are one line: two that follow the same one would be two states of one database."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

SERVICES = Path(__file__).parents[2] / "services"
FOLDERS = sorted(SERVICES.glob("*/migrations"))


def line_of(folder: Path) -> list[str]:
    """Return the revisions of a folder, oldest first. Raises for more than one head."""
    script = ScriptDirectory(str(folder.parent), version_locations=[str(folder)])
    head = script.get_current_head()
    assert head is not None
    return [revision.revision for revision in script.iterate_revisions(head, "base")][::-1]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_each_migration_follows_the_one_before_it(folder: Path) -> None:
    files = sorted(file.stem for file in folder.glob("*.py"))
    numbered = [f"{folder.parent.name}_{number:04}" for number in range(1, len(files) + 1)]
    assert line_of(folder) == numbered
    assert ["_".join(file.split("_")[:2]) for file in files] == numbered


def test_two_that_follow_the_same_one_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name, before in (("one", None), ("two", "one"), ("other", "one")):
        (folder / f"{name}.py").write_text(f"revision = {name!r}\ndown_revision = {before!r}\n")
    with pytest.raises(Exception, match="multiple heads"):
        line_of(folder)
