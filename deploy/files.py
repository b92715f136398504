"""Files that hold secrets or state: written whole or not at all, readable by their owner only."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SYNCED_TOGETHER = 32


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, mode 0600, on disk when this returns; a reader sees the old or the new, never a part."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_one(path.parent)


def sync(folder: Path) -> None:
    """Have all that is in a folder, and the folder, on the disk when this returns."""
    found = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink() and (path.is_file() or path.is_dir())]
    # Many at a time: a file system writes down what is asked of it together.
    with ThreadPoolExecutor(SYNCED_TOGETHER) as pool:
        list(pool.map(_sync_one, found))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tail(path: Path, lines: int, *, limit: int = 8192) -> str:
    """Return the last `lines` lines of a log (at most `limit` bytes of it); empty when there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def bound(path: Path, limit: int) -> None:
    """Keep a log that a process appends to under `limit` bytes: its content moves to `<name>.1`, then it is cut.

    The file is cut and not renamed because the process that writes it keeps its descriptor.
    """
    try:
        if path.stat().st_size <= limit:
            return
    except FileNotFoundError:
        return
    write_private(path.with_name(path.name + ".1"), tail(path, limit, limit=limit).encode())
    os.truncate(path, 0)
