"""What of a folder is deployed, on a real file system with all that may lie about there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.cli import deployment
from millrace.cli.api import Refused
from millrace.cli.folder import files_of
from shared.questions.files import MOST_CHANGES, MOST_PATH_BYTES
from tests.support.places import open_folder

NOBODY = 65534


@contextlib.contextmanager
def as_somebody_else() -> Iterator[None]:
    """Have the rights of somebody who may not read everything, where the tests run as root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def test_what_is_no_file_of_the_folder_is_left_out_and_told(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for place in (outside, folder / "deep"):
        place.mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (folder / ".env").write_text("secret")
    (folder / "a.py").write_text("")
    links = {
        "out.txt": outside / "secret.txt",
        "deep/out.txt": Path("../../outside/secret.txt"),
        "through.txt": folder / "deep" / "out.txt",
        "system": Path("/etc/passwd"),
        "hidden.txt": folder / ".env",
        "dangling.py": folder / "nowhere",
        "loop": folder / "loop",
        "round": folder,
        "away": outside,
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "socket"))
    (folder / os.fsdecode(b"latin-\xe9.py")).write_text("")
    found = files_of(folder)
    assert set(found.files) == {"a.py"}
    assert {name: why.split(":")[0] for name, why in found.left_out.items()} == {
        "out.txt": "is a link to outside of the folder",
        "deep/out.txt": "is a link to outside of the folder",
        "through.txt": "is a link to outside of the folder",
        "system": "is a link to outside of the folder",
        "hidden.txt": "is a link to something hidden",
        "dangling.py": "is a link that leads nowhere",
        "loop": "is a link that leads nowhere",
        "round": "is a link to a folder",
        "away": "is a link to a folder",
        "pipe": "is not a file",
        "socket": "is not a file",
        os.fsdecode(b"latin-\xe9.py"): "has a name that is no UTF-8",
    }
    assert found.unseen == set()


class NothingThere:
    """An API whose workspace is empty, and which takes nothing."""

    url = "http://127.0.0.1:1"

    def pages(self, *_path: str) -> dict[str, Any]:
        return {"items": [], "next_cursor": None}


def test_more_changes_than_one_commit_takes_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    assert (deployment.MOST_CHANGES, deployment.MOST_PATH_BYTES) == (MOST_CHANGES, MOST_PATH_BYTES)
    (tmp_path / "data").mkdir()
    for number in range(MOST_CHANGES + 1):
        (tmp_path / "data" / f"{number}").touch()
    (tmp_path / "flow.py").touch()
    api: Any = NothingThere()
    with pytest.raises(Refused, match=f"nothing was deployed: 4002 files.* 4001, are in {tmp_path / 'data'}: take out"):
        deployment.Deployment(api, tmp_path, prune=False).bring(check=True)


def test_what_cannot_be_read_is_told_and_not_taken_for_gone() -> None:
    with open_folder() as place:
        (place / "closed").mkdir()
        for name in ("a.py", "mine.py", "closed/b.py"):
            (place / name).write_text("")
        (place / "mine.py").chmod(0)
        (place / "closed").chmod(0)
        with as_somebody_else():
            found = files_of(place)
        assert set(found.files) == {"a.py"}
        assert set(found.left_out.values()) == {"cannot be read: Permission denied"}
        assert found.unseen == {"mine.py", "closed"}
        assert [found.is_unseen(path) for path in ("mine.py", "closed/b.py", "a.py", "closed.py")] == [True, True, False, False]
        (place / "closed").chmod(0o700)
