"""A workspace on disk: its deployed files, and their changes."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

IGNORED_ENDINGS = (".pyc", ".pyo", "~")
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """Changes to make: files to upload, in this order, and files that are deployed and no longer there."""

    changed: list[str]
    gone: list[str]


@dataclass
class Found:
    """The content of a folder: the files to deploy by their path in the workspace, and why others are left out.

    Paths in `unseen` could not be looked at: nothing is known of the files there, or below.
    """

    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)

    def is_unseen(self, path: str) -> bool:
        """Return whether a path of the workspace may be there all the same."""
        return any(path == one or path.startswith(f"{one}/") for one in self.unseen)


def files_of(folder: Path) -> Found:
    """Look through a workspace on disk (`/` between the parts of a path); hidden files, caches and environments are not told of.

    Links to files within the folder are followed. Those that lead out of it, where secrets may be, and those to folders, which may
    go round in a circle, are left out; so is what is no file or cannot be read.
    """
    found = Found()
    root = os.path.realpath(folder)

    def unread(error: OSError) -> None:
        _leave(found, Path(error.filename or folder).relative_to(folder), f"cannot be read: {error.strerror}", unseen=True)

    for place, folders, names in os.walk(folder, onerror=unread):
        folders[:] = sorted(name for name in folders if not _is_ignored(Path(place, name)))
        for name in [name for name in folders if Path(place, name).is_symlink()]:
            _leave(found, Path(place, name).relative_to(folder), "is a link to a folder")
        for name in sorted(names):
            if name.startswith(".") or name.endswith(IGNORED_ENDINGS):
                continue
            path = Path(place, name)
            inside = path.relative_to(folder)
            # Some systems write é as e and an accent; a workspace's paths have one form.
            as_deployed = unicodedata.normalize("NFC", inside.as_posix())
            why = _hindrance(path, inside, root) if as_deployed not in found.files else "has the same name as another file"
            if why is None:
                found.files[as_deployed] = path
            else:
                _leave(found, inside, why, unseen=why.startswith("cannot be read"))
    return found


def _leave(found: Found, path: Path, why: str, *, unseen: bool = False) -> None:
    name = unicodedata.normalize("NFC", path.as_posix())
    found.left_out[name] = why
    if unseen:
        found.unseen.add(name)


def _hindrance(path: Path, inside: Path, root: str) -> str | None:
    """Return why a file is not deployed, None when it is."""
    try:
        inside.as_posix().encode()
    except UnicodeEncodeError:
        return "has a name that is no UTF-8"
    try:
        if path.is_symlink():
            leads_to = os.path.realpath(path, strict=True)
            if os.path.commonpath((root, leads_to)) != root:
                return "is a link to outside of the folder"
            if any(part.startswith(".") for part in Path(leads_to).relative_to(root).parts):
                return "is a link to something hidden"
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a file"
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        if path.is_symlink():
            return f"is a link that leads nowhere: {error.strerror}"
        return f"cannot be read: {error.strerror}"
    return None


def stamps_of(files: Mapping[str, Path]) -> dict[str, Stamp]:
    """Return for each file a mark that changes when it is saved; one that has just gone is left out."""
    found: dict[str, Stamp] = {}
    for name, path in files.items():
        try:
            status = path.stat()
        except OSError:
            continue
        found[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_code(path: str) -> bool:
    """Return whether a file is read for workflows whenever it changes."""
    return path.endswith((".py", ".pyi")) or path.rpartition("/")[2] == "requirements.txt"


def plan(local: Mapping[str, str], remote: Mapping[str, str]) -> Plan:
    """Return the changes that make the workspace `remote` like `local`; both are SHA-256 by path.

    Code comes last: the answer to the last file of code is then about the whole workspace as it will be.
    """
    changed = [path for path, sha256 in local.items() if remote.get(path) != sha256]
    return Plan(_code_last(changed), _code_last(remote.keys() - local.keys()))


def _is_ignored(folder: Path) -> bool:
    return (
        folder.name.startswith(".") or folder.name in {"__pycache__", "node_modules"} or os.access(folder / "pyvenv.cfg", os.F_OK)
    )


def _code_last(paths: Iterable[str]) -> list[str]:
    return sorted(paths, key=lambda path: (is_code(path), path))
