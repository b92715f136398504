"""What is counted and removed of a bundle's objects while other deployments write theirs."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.executor.workspaces import bundles
from services.executor.workspaces.bundles import YOUNG, _link, _remove, _size


def test_a_file_that_goes_while_its_folder_is_looked_through_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"four")
    # Listed, and gone when it is asked about.
    (tmp_path / "unfinished").symlink_to(tmp_path / "gone")
    assert _size(tmp_path) == 4
    _remove(tmp_path / "tree", tmp_path, ())
    assert (tmp_path / "there").exists()


def test_an_old_object_stays_while_a_tree_that_wants_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wanted", "left"):
        (tmp_path / name).write_bytes(b"x")
    later = time.time() + YOUNG + 1
    monkeypatch.setattr(bundles.time, "time", lambda: later)
    _remove(tmp_path / "tree", tmp_path, {"wanted"})
    assert [path.name for path in tmp_path.iterdir()] == ["wanted"]


def test_an_object_with_all_the_names_that_a_file_can_have_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "object"
    file.write_bytes(b"x")
    file.chmod(0o444)
    monkeypatch.setattr(bundles.os, "link", at_most(2, os.link))
    for name in ("a", "b", "c"):
        _link(file, tmp_path / name)
    assert (tmp_path / "c").samefile(file)
    assert not (tmp_path / "b").samefile(file)
    assert [((tmp_path / name).read_bytes(), (tmp_path / name).stat().st_mode & 0o777) for name in "abc"] == [(b"x", 0o444)] * 3
    assert len(list(tmp_path.iterdir())) == 4


def at_most(names: int, link: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Make links as a file system does that allows a file so many names besides its first."""

    def limited(file: Path, name: Path) -> None:
        if file.stat().st_nlink > names:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(file, name)

    return limited
