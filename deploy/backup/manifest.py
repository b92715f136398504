"""What is in a backup: its files with sizes and SHA-256, and what a restore needs to know of each stream."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from deploy.errors import StartError
from deploy.files import write_private
from deploy.folder import is_newer, running_version

NAME = "manifest.json"
# Of another number only a newer version knows the meaning.
FORMAT = 1
DATABASE = "postgres.dump"
FILES = "files.tar"
READ = 1024 * 1024
_FILE = re.compile(rf"{re.escape(DATABASE)}|{re.escape(FILES)}|streams/\w+(-[0-9]+)?\.snapshot", re.ASCII)


class File(msgspec.Struct, frozen=True):
    """A file of a backup; `name` is its path within."""

    name: str
    size: int
    sha256: str


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as the broker gave it, with its configuration and state. Messages after `cut`, if any, are later than the moment."""

    name: str
    file: str
    config: dict[str, Any]
    state: dict[str, Any]
    cut: int | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A whole backup: of the `moment` (RFC 3339), made by `version`. All up to `floors` was acknowledged, by durable consumer."""

    format: int
    version: str
    moment: str
    files: list[File]
    streams: list[Stream]
    floors: dict[str, int]
    keys: str


class _Sealed(msgspec.Struct, frozen=True):
    sha256: str
    manifest: msgspec.Raw


class Writing:
    """A file of a backup while it is written: a context that leaves it on disk."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._path = folder / name
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def write(self, part: bytes) -> int:
        """Append bytes; return how many. Raises OSError, as of a full disk."""
        self._file.write(part)
        self._hash.update(part)
        self.size += len(part)
        return len(part)

    @property
    def file(self) -> File:
        """The file as it was written."""
        return File(self._name, self.size, self._hash.hexdigest())


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest; on disk when this returns."""
    encoded = msgspec.json.encode(manifest)
    sealed = _Sealed(hashlib.sha256(encoded).hexdigest(), msgspec.Raw(encoded))
    write_private(folder / NAME, msgspec.json.encode(sealed) + b"\n")


def read(folder: Path) -> Manifest:
    """Return a backup's manifest. Raises `StartError` for what is no backup, a damaged manifest, or one of a newer version."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartError(f"{folder} is no finished backup: {path} cannot be read ({error.strerror}).") from error
    try:
        sealed = msgspec.json.decode(content, type=_Sealed)
        intact = hashlib.sha256(sealed.manifest).hexdigest() == sealed.sha256
        told = msgspec.json.decode(sealed.manifest, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StartError(f"{path} is damaged ({error}): use another backup.") from error
    if not intact:
        raise StartError(f"{path} is damaged (its SHA-256 is another one): use another backup.")
    if told.get("format") != FORMAT or is_newer(str(told.get("version"))):
        made_by = f"Millrace {told.get('version')}"
        raise StartError(f"{folder} was made by {made_by}, which is newer than this one ({running_version()}); use that version.")
    made = msgspec.convert(told, type=Manifest)
    for file in made.files:
        # It may come from elsewhere, and files are written and read by these names.
        if not _FILE.fullmatch(file.name):
            raise StartError(f"{path} names a file that no backup has: {file.name[:100]!r}.")
    return made


def found(folder: Path, name: str) -> File:
    """Return a file of a backup as it is; it is on disk when this returns."""
    path = folder / name
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return File(name, path.stat().st_size, _sha256(path))


def damaged(folder: Path, manifest: Manifest, progress: Callable[[str, int, int], None]) -> list[str]:
    """Read every file of a backup; return a sentence for each that is missing or not as it was written."""
    faults: list[str] = []
    for number, file in enumerate(manifest.files, start=1):
        path = folder / file.name
        try:
            size = path.stat().st_size
            if size != file.size:
                faults.append(f"{path} is damaged: it has {size} bytes, not {file.size}.")
            elif _sha256(path) != file.sha256:
                faults.append(f"{path} is damaged: its SHA-256 is another one.")
        except OSError as error:
            faults.append(f"{path} cannot be read: {error.strerror}.")
        progress("verified", number, len(manifest.files))
    return faults


def parts_of(path: Path, size: int = READ) -> Iterator[bytes]:
    """Yield a file's content."""
    with path.open("rb") as file:
        while part := file.read(size):
            yield part


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
