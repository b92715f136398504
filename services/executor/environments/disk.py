"""What environments lie on: folders that appear whole or not at all, each made by one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

# Seconds between two tries to have a lock that another executor holds.
_AGAIN = 0.1


class Disk:
    """The folder of all environments, which several executors of this machine may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.built = folder / "built"
        self.resolving = folder / "resolving"
        self._work = folder / "work"
        self._locks_folder = folder / "locks"
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._mine: int | None = None
        self._own: Path | None = None

    def start(self) -> None:
        """Make the folders, and remove what executors that are gone left half-done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for one in (self.wheels, self.built, self.resolving, self._work, self._locks_folder):
            one.mkdir(exist_ok=True)
            one.chmod(0o755)
        for left in self._work.iterdir():
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)
        self._own = self._work / secrets.token_hex(8)
        self._own.mkdir()
        self._own.chmod(0o755)
        self._mine = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._mine, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove what is half-done."""
        if self._mine is not None and self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._mine)
            self._mine = None

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """Have an empty folder for the block; what is left in it then goes."""
        assert self._own is not None  # noqa: S101 - started
        folder = self._own / secrets.token_hex(8)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Wait until no task, of this process or another on this folder, is in a block of this name."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            descriptor = os.open(self._locks_folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                while True:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        await asyncio.sleep(_AGAIN)
                yield
            finally:
                os.close(descriptor)


def place(folder: Path, target: Path) -> None:
    """Give a finished folder its name, at once; another that has the name already is as good."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def link_tree(tree: Path, target: Path) -> None:
    """Make the files of a tree appear in another folder. Where both have a file the one that is there stays."""
    left = [""]
    while left:
        below = left.pop()
        with os.scandir(tree / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(FileExistsError):
                        (target / path).mkdir(0o755)
                    left.append(path)
                else:
                    _link(entry.path, f"{target}/{path}")


def _link(source: str, target: str, link: Callable[[str, str], None] = os.link) -> None:
    try:
        link(source, target)
    except FileExistsError:
        pass
    except NotADirectoryError:
        pass  # another package has a file where this one has a folder
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
            raise
        shutil.copy2(source, target)


def reachable(program: Path, folder: Path) -> Path:
    """Return a copy of a program, made once, where every user can execute it."""
    target = folder / f"{program.name}-{program.stat().st_size:x}-{int(program.stat().st_mtime):x}"
    if not target.exists():
        unfinished = folder / f".{program.name}.{secrets.token_hex(4)}"
        shutil.copyfile(program, unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(target)
    return target


def counted(tree: Path) -> tuple[int, int]:
    """Return the files below a folder and their bytes, as `sealed` does."""
    files = size = 0
    for folder, _, names in os.walk(tree):
        files += len(names)
        size += sum(os.lstat(f"{folder}/{name}").st_size for name in names)
    return files, size
