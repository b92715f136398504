"""A workspace on disk: which of its files are deployed, and what has changed."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

IGNORED_ENDINGS = (".pyc", ".pyo", "~")
Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """What to do: files to upload, in this order, and files that are deployed and no longer there."""

    changed: list[str]
    gone: list[str]


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a workspace by their path there (`/` between parts); hidden ones, caches and environments are left out.

    Links to files are followed, links to folders are not: they may lead around in a circle.
    """
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_ignored(Path(place, name)))
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and not name.endswith(IGNORED_ENDINGS) and path.is_file():
                # Some systems write é as e and an accent; a workspace's paths have one form.
                found[unicodedata.normalize("NFC", path.relative_to(folder).as_posix())] = path
    return found


def stamps_of(files: Mapping[str, Path]) -> dict[str, Stamp]:
    """Return for each file what changes when it is saved; one that has just gone is left out."""
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
    """Return what makes the workspace `remote` like `local`; both are SHA-256 by path.

    Code comes last: the answer to the last file of code is then about the whole workspace as it will be.
    """
    changed = [path for path, sha256 in local.items() if remote.get(path) != sha256]
    return Plan(_code_last(changed), _code_last(remote.keys() - local.keys()))


def _is_ignored(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name == "__pycache__" or (folder / "pyvenv.cfg").exists()


def _code_last(paths: Iterable[str]) -> list[str]:
    return sorted(paths, key=lambda path: (is_code(path), path))
